"""A server of NATS and how to log in to it."""

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
