"""ZeroMQ sockets with every bound set: no linger, bounded messages, sends that never wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.endpoint import check_exposure, check_file, remove_file

__all__ = [
    "attach",
    "bind",
    "configure",
    "connect",
    "dealer",
    "drain",
    "drain_frames",
    "endpoint_error",
    "remove_file",
    "send",
    "watch_link",
]

HEARTBEAT_MS = (1000, 3000)
"""ZMTP heartbeat across a network: ping interval, and time without an answer before the
connection is closed. TCP alone would notice a cut link only after about 15 minutes."""

DRAIN_LIMIT = 100
"""Messages that one `drain` takes at most, so that a flood does not hold up the loop."""

Keys = TypeVar("Keys", contravariant=True)


class ClientKeys(Protocol):
    """Keys of a client, as `common.security.curve.CurveClientKeys`."""

    def apply(self, socket: zmq.Socket[Any]) -> None: ...


class Authenticator(Protocol[Keys]):
    """What locks an endpoint, as `common.security.zap.ZapAuthenticator`."""

    def guard(self, socket: zmq.Socket[bytes], lock: Keys, domain: str) -> None: ...


def connect(
    context: zmq.Context[Any], endpoint: str, name: str, client_keys: ClientKeys | None = None
) -> zmq.Socket[bytes]:
    """A DEALER connected to `endpoint`, with every bound and time limit set.

    Raises:
        UserError: the endpoint is malformed, or a key.
    """
    socket = dealer(context, client_keys)
    attach(socket, endpoint, name)
    return socket


def dealer(context: zmq.Context[Any], client_keys: ClientKeys | None) -> zmq.Socket[bytes]:
    """A DEALER with every bound set, not connected yet.

    Raises:
        UserError: a key is malformed.
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    configure(socket)
    if client_keys is not None:
        client_keys.apply(socket)
    return socket


def attach(socket: zmq.Socket[bytes], endpoint: str, name: str) -> None:
    """Connect a socket to an endpoint; it is closed where that is impossible.

    Raises:
        UserError: the endpoint is malformed.
    """
    watch_link(socket, endpoint)
    allow_ipv6(socket, endpoint)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise endpoint_error(name, endpoint, error) from None


def bind(
    socket: zmq.Socket[bytes],
    endpoint: str,
    name: str,
    *,
    lock: Keys | None = None,
    authenticator: Authenticator[Keys] | None = None,
    unprotected: bool = False,
) -> None:
    """Bind a socket to an endpoint that no other program serves.

    Args:
        name: what the endpoint is for, in errors and as ZAP domain.
        lock, authenticator: over TCP, accept only clients that `lock` allows.
        unprotected: bind without a lock even where the whole network can connect.

    Raises:
        UserError: the endpoint is malformed, in use, or open to the network without consent.
    """
    check_exposure(endpoint, name, locked=lock is not None, unprotected=unprotected)
    if lock is not None and authenticator is not None and endpoint.startswith("tcp://"):
        authenticator.guard(socket, lock, name)
    check_file(endpoint, name)
    allow_ipv6(socket, endpoint)
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise endpoint_error(name, endpoint, error) from None


def drain(socket: zmq.Socket[bytes], limit: int = DRAIN_LIMIT) -> Iterator[list[bytes]]:
    """The waiting messages of a socket, without blocking.

    Args:
        limit: most messages to take; the rest stays in the socket's queue.

    Yields:
        The frames of one message. A ROUTER's first frame is the identity of the peer. A peer
        decides how many frames it sends: check their number.
    """
    yield from _received(socket, limit, copy=True)


def drain_frames(socket: zmq.Socket[bytes], limit: int = DRAIN_LIMIT) -> Iterator[list[zmq.Frame]]:
    """As `drain`, with frames that know the connection they came from."""
    yield from _received(socket, limit, copy=False)


def _received(socket: zmq.Socket[bytes], limit: int, *, copy: bool) -> Iterator[list[Any]]:
    for _ in range(limit):
        try:
            frames = socket.recv_multipart(zmq.DONTWAIT, copy=copy)
        except zmq.Again:
            return
        yield frames


def send(socket: zmq.Socket[bytes], message: codec.Message) -> bool:
    """Send without blocking; False if the peer's queue is full."""
    try:
        socket.send(internal.encode(message), zmq.DONTWAIT)
    except zmq.Again:
        return False
    return True


def configure(socket: zmq.Socket[bytes]) -> None:
    """Limits of every internal socket: no linger on close, bounded messages, quick reconnect."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, codec.MAX_FRAME)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)


def watch_link(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Make the next TCP bind or connect detect a cut link; other transports need nothing."""
    if endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS[0])
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_MS[1])
        socket.setsockopt(zmq.CONNECT_TIMEOUT, HEARTBEAT_MS[1])
        # Do not queue messages for a peer that is not connected: they would arrive late, at once.
        socket.setsockopt(zmq.IMMEDIATE, 1)


def allow_ipv6(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Make the next bind or connect accept an IPv6 address, which libzmq refuses by default."""
    socket.setsockopt(zmq.IPV6, int(endpoint.startswith("tcp://[")))


def endpoint_error(name: str, endpoint: str, error: zmq.ZMQError) -> UserError:
    """The one-line error for an endpoint that cannot be bound or connected."""
    if error.errno == zmq.EADDRINUSE:
        return UserError(
            f"{name} endpoint {endpoint} is already in use; "
            "stop the other program or choose another"
        )
    return UserError(
        f"{name} endpoint {endpoint!r} is not usable ({error.strerror}); "
        "allowed: tcp://ADDRESS:PORT or ipc://PATH"
    )
