"""A server of NATS, how to log in to it, and what it may do on a box."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class NatsServer:
    """A server of NATS and how to log in to it.

    Attributes:
        url: `nats://HOST:PORT` or `tls://HOST:PORT`.
        seed: file with the seed of an NKey.
        credentials: .creds file, in place of `seed`.
        ca: PEM file of the authority that signed the server's certificate; None: the system's.
        certificate, private_key: PEM files of this client, where the server asks for them.
    """

    url: str
    seed: Path | None = None
    credentials: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None


@dataclasses.dataclass(frozen=True)
class RolloutOptions:
    """How a box takes bundles from the centre.

    Attributes:
        key: public key (NKey) that must have signed an order.
        folder: of the bundles and of the state.
        control: control socket of the supervisor.
        configured: absolute path of the configured bundle.
        poll_s: seconds between two questions to the centre.
    """

    key: str
    folder: Path
    control: Path
    configured: Path
    poll_s: float = 5.0
