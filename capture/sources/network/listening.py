"""Addresses of `listen:` sources: other devices send their sound to this machine.

listen:ws://HOST:PORT/NAME              WebSocket; wss:// with TLS
listen:rtp://HOST:PORT/RATE[/CHANNELS]  RTP with L16 (RFC 3551)
listen:udp://HOST:PORT/RATE[/CHANNELS]  datagrams of signed 16-bit little-endian samples
"""

from __future__ import annotations

import dataclasses
from urllib.parse import urlsplit


@dataclasses.dataclass(frozen=True)
class ListenAddress:
    """A parsed `listen:` source, as `common.config.checks` has accepted it.

    Attributes:
        scheme: ws, wss, rtp or udp.
        name: last part of the path for ws and wss; else empty.
        rate, channels: of rtp and udp; else 0.
    """

    scheme: str
    host: str
    port: int
    name: str = ""
    rate: int = 0
    channels: int = 0


def parse(source: str) -> ListenAddress:
    """The parts of a source."""
    parts = urlsplit(source.removeprefix("listen:"))
    host, port, path = parts.hostname or "", parts.port or 0, parts.path.strip("/")
    if parts.scheme in ("ws", "wss"):
        return ListenAddress(parts.scheme, host, port, name=path)
    rate, _, channels = path.partition("/")
    return ListenAddress(parts.scheme, host, port, rate=int(rate), channels=int(channels or 1))
