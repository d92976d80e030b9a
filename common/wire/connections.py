"""Bounds the connections of a socket that other programs reach; counts refused handshakes.

libzmq accepts without limit, and a process without descriptors can neither restart a stage nor
accept one. Each connection is known by its descriptor and inode. A message tells the descriptor
only: one that waits while its connection is closed and the number is used again counts for the
new connection. At worst that one is closed too, and its client connects again.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
import socket as posix
import struct
import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import zmq

from speech_emotion.common.wire.sockets import drain, drain_frames

MAX_CONNECTIONS = 256
"""Most connections of one socket; less where the process may have few descriptors."""

HANDSHAKE_MS = 5000
"""Time in milliseconds after which libzmq closes a connection without a completed handshake."""

PRUNE_S = 1.0
"""Interval in seconds at which closed connections are removed from the table."""

REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
"""An unknown key; no key, or a wrong server key; a client that closed before the end."""

UNSPECIFIED = struct.pack("=H14x", posix.AF_UNSPEC)
"""A `struct sockaddr` that dissolves the association of a connected socket."""

_libc = ctypes.CDLL(None, use_errno=True)

Key: TypeAlias = tuple[int, int]


@dataclasses.dataclass
class Connection:
    """A connection that libzmq has accepted.

    Attributes:
        key: descriptor and inode.
        active: a message has come from it, so its handshake is complete.
        prefixes: its subscriptions, where the socket is an XPUB.
        requests: messages that it may send at once; filled again with time.
        updated: when `requests` was last filled (CLOCK_MONOTONIC, seconds).
    """

    key: Key
    active: bool = False
    prefixes: set[bytes] = dataclasses.field(default_factory=set)
    requests: float = 0.0
    updated: float = 0.0


class Connections:
    """The connections of one bound socket. Create it before the bind.

    Beyond the limit, the oldest connection that has sent no message is closed, so that idle
    connections do not keep clients out; if all have sent one, the new connection is closed.

    Args:
        socket: the socket to watch; only its thread uses this object.
        tcp_only: leave connections of ipc endpoints alone.
        limit: most connections.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], *, tcp_only: bool = False, limit: int | None = None
    ) -> None:
        self._tcp_only = tcp_only
        self._limit = limit or connection_limit()
        self._table: dict[Key, Connection] = {}
        self._unknown: set[Key] = set()
        self._prune_due = 0.0
        self._refused = 0
        self._cut = 0
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self.events: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | REFUSED)
        """Readable when `turn()` has work."""
        self.events.setsockopt(zmq.LINGER, 0)

    def turn(self) -> None:
        """Read what happened to connections; close those beyond the limit."""
        self._unknown.clear()
        self._read_events()
        if time.monotonic() >= self._prune_due:
            self._prune()

    def drain(self, socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
        """As `drain`; marks the senders' connections as active."""
        for frames in drain_frames(socket):
            if (connection := self.sender(frames[0])) is not None:
                connection.active = True
            yield [frame.bytes for frame in frames]

    def sender(self, frame: zmq.Frame) -> Connection | None:
        """The connection that a received frame came from; None if it has been closed."""
        try:
            descriptor = int(frame.get(zmq.SRCFD))
            key = descriptor, os.fstat(descriptor).st_ino
        except (zmq.ZMQError, OSError):
            return None
        if key not in self._table and key not in self._unknown:
            self._read_events()  # it may have been accepted after the last turn
            if key not in self._table:
                self._unknown.add(key)
        return self._table.get(key)

    def all(self) -> Iterator[Connection]:
        """Every connection in the table, the oldest first."""
        yield from self._table.values()

    def cut(self, connection: Connection) -> None:
        """Close a connection; libzmq removes what it holds for it."""
        self._table.pop(connection.key, None)
        self._cut += 1
        with contextlib.suppress(OSError), _duplicate(connection.key) as duplicate:
            # libzmq owns the descriptor: end the connection, and libzmq closes it itself. After a
            # TCP shutdown alone the peer could go on sending; an unspecified address resets it.
            duplicate.shutdown(posix.SHUT_RDWR)
            if duplicate.family != posix.AF_UNIX:
                _libc.connect(duplicate.fileno(), UNSPECIFIED, len(UNSPECIFIED))

    def take_refused(self) -> int:
        """Handshakes refused since the last call."""
        number, self._refused = self._refused, 0
        return number

    def take_cut(self) -> int:
        """Connections closed since the last call."""
        number, self._cut = self._cut, 0
        return number

    def close(self) -> None:
        """Close the socket of the events."""
        self.events.close()

    def _read_events(self) -> None:
        for event, endpoint in drain(self.events, limit=10 * self._limit):
            kind, value = struct.unpack("=HI", event)
            if kind != zmq.EVENT_ACCEPTED:
                self._refused += 1
            elif not self._tcp_only or endpoint.startswith(b"tcp://"):
                self._accepted(value, endpoint.decode())

    def _accepted(self, descriptor: int, endpoint: str) -> None:
        try:
            key = descriptor, os.fstat(descriptor).st_ino
            with _duplicate(key) as duplicate:
                address = duplicate.getsockname()
        except OSError:
            return  # closed already
        if not _is_at(address, endpoint):
            return  # closed already, and the number used again for another socket
        self._table[key] = Connection(key)
        if len(self._table) > self._limit:
            self._prune()
        if len(self._table) > self._limit:
            idle = (connection for connection in self._table.values() if not connection.active)
            self.cut(next(idle))

    def _prune(self) -> None:
        self._prune_due = time.monotonic() + PRUNE_S
        self._table = {key: value for key, value in self._table.items() if _is_open(key)}


def connection_limit() -> int:
    """Most connections of one socket: a quarter of this process's descriptors, at most 256."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 4)


def _is_at(address: Any, endpoint: str) -> bool:
    """Whether the local address of a socket belongs to a bound endpoint."""
    if isinstance(address, tuple):
        return endpoint.startswith("tcp://") and endpoint.endswith(f":{address[1]}")
    return endpoint == f"ipc://{address}"


def _is_open(key: Key) -> bool:
    try:
        return os.fstat(key[0]).st_ino == key[1]
    except OSError:
        return False


@contextlib.contextmanager
def _duplicate(key: Key) -> Iterator[posix.socket]:
    """A second descriptor of a connection; raises OSError if the connection has been closed."""
    descriptor = os.dup(key[0])
    if os.fstat(descriptor).st_ino != key[1]:
        os.close(descriptor)
        raise OSError("closed")
    with posix.socket(fileno=descriptor) as duplicate:
        yield duplicate
