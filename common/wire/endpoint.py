"""ZeroMQ endpoints as text: what is on loopback, what is open to the network, ipc files."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from speech_emotion.common.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; of names only `localhost` is trusted."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def on_loopback(endpoint: str) -> bool:
    """Whether only this machine can connect to an endpoint: ipc, and TCP on loopback."""
    if not endpoint.startswith("tcp://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    return host == "lo" or is_loopback(host)


def check_exposure(endpoint: str, name: str, *, locked: bool, unprotected: bool) -> None:
    """Refuse an endpoint that the whole network can reach without keys.

    Args:
        name: what the endpoint is for, in the error.
        locked: clients need a key.
        unprotected: the user allowed connections without keys (`curve.unprotected`).

    Raises:
        UserError: it is reachable from other machines, and neither of the two holds.
    """
    if locked or unprotected or on_loopback(endpoint):
        return
    raise UserError(
        f"{name} endpoint {endpoint} is open to the whole network; give it keys (curve.secret and "
        "curve.allowed, see docs/SECURITY.md), or set curve.unprotected to allow every client"
    )


def remove_file(endpoint: str) -> None:
    """Remove the socket file of an ipc endpoint after its socket was closed; libzmq keeps it."""
    path = endpoint.removeprefix("ipc://")
    if path != endpoint:
        Path(path).unlink(missing_ok=True)
