"""ZeroMQ endpoints as text: what is on loopback, what is open to the network, ipc socket files."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path

from speech_emotion.common.errors import UserError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; of names only `localhost` is trusted."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host_name(host: str) -> str:
    """`host` itself; an address, or a name that DNS can have.

    For another one, Python's look-up raises UnicodeError in place of an OSError: in a thread of a
    library that ends the thread, and nothing connects again.

    Raises:
        UserError: a part between its dots is empty or too long.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        raise UserError(
            f"{host[:100]!r} is no name of a host: each part between dots has 1 to 63 characters"
        ) from None
    return host


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


def check_file(endpoint: str, name: str) -> None:
    """Refuse an ipc endpoint that cannot be bound without harm.

    libzmq removes any file at the path before it binds: a user's file, or the socket of a running
    program. An abstract name (`ipc://@NAME`) has no permissions: every local user can connect.

    Raises:
        UserError: the name is abstract, or the path exists and is not an unused socket.
    """
    path = endpoint.removeprefix("ipc://")
    if path == endpoint:
        return
    if path.startswith("@"):
        raise UserError(
            f"{name} endpoint {endpoint} is open to every local user; use ipc://PATH, whose "
            "folder has permissions"
        )
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{name} endpoint {endpoint}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise UserError(
            f"{name} endpoint {endpoint}: the path exists and is not a socket; choose another path"
        )
    if _in_use(path):
        raise UserError(
            f"{name} endpoint {endpoint} is already in use; "
            "stop the other program or choose another"
        )


def remove_file(endpoint: str) -> None:
    """Remove the socket file of an ipc endpoint after its socket was closed; libzmq keeps it."""
    path = Path(endpoint.removeprefix("ipc://"))
    if str(path) != endpoint and path.is_socket():
        path.unlink(missing_ok=True)


def _in_use(path: str) -> bool:
    """Whether a program may use a socket file: only a refused connection shows that none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) not in (errno.ECONNREFUSED, errno.ENOENT)
