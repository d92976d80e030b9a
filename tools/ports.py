"""Ports for the servers of tests and measurements."""

from __future__ import annotations

import secrets
import socket

LOWEST, HIGHEST = 20000, 32767
"""Below the ports that Linux gives to outgoing connections, 32768 and above."""
LOOPBACK = "127.0.0.1"


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A free port of the loopback interface, for this process and the servers that it starts.

    The kernel gives a port that no socket has at the moment; until the server listens, another
    test or an outgoing connection may get the same one. Here the process holds an abstract socket
    named after the port until it ends, and the port is none of outgoing connections.

    Raises:
        OSError: no port is free.
    """
    for _ in range(1000):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST + 1)
        with (
            socket.socket(socket.AF_UNIX) as reservation,
            socket.socket(socket.AF_INET, kind) as probe,
        ):
            try:
                reservation.bind(f"\0speech-emotion-port-{port}")
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            reservation.detach()  # open until the process ends
            return port
    raise OSError(f"no port of {LOWEST} to {HIGHEST} is free")
