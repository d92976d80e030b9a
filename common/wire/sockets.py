"""ZeroMQ sockets with every bound set: no linger, bounded messages, sends that never wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveClientKeys, CurveServerKeys
from speech_emotion.common.security.exposure import check_exposure
from speech_emotion.common.security.zap import ZapAuthenticator
from speech_emotion.common.wire import codec, internal

HEARTBEAT_MS = (1000, 3000)
"""Across a network a silent peer is asked for a sign of life so often, and dropped after so long
without one: of a cut link TCP alone would know nothing for a quarter of an hour."""


def connect(
    context: zmq.Context[Any], endpoint: str, name: str, client_keys: CurveClientKeys | None = None
) -> zmq.Socket[bytes]:
    """A DEALER connected to `endpoint`, with every bound and time limit set.

    Raises:
        UserError: the endpoint is malformed, or a key.
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    configure(socket)
    if client_keys is not None:
        client_keys.apply(socket)
    watch_link(socket, endpoint)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise endpoint_error(name, endpoint, error) from None
    return socket


def bind(
    socket: zmq.Socket[bytes],
    endpoint: str,
    name: str,
    *,
    lock: CurveServerKeys | None = None,
    authenticator: ZapAuthenticator | None = None,
    unprotected: bool = False,
) -> None:
    """Bind a socket where nobody else is.

    Args:
        lock, authenticator: let in only whom the lock allows, over TCP.
        unprotected: without a lock, even where the whole network can connect.

    Raises:
        UserError: the endpoint is malformed, taken, or open to the network without a word.
    """
    check_exposure(endpoint, name, locked=lock is not None, unprotected=unprotected)
    if lock is not None and authenticator is not None and endpoint.startswith("tcp://"):
        authenticator.guard(socket, lock, name)
    path = endpoint.removeprefix("ipc://")
    if path != endpoint and _answers(path):
        # libzmq would take the file away from its owner without a word.
        raise endpoint_error(name, endpoint, zmq.ZMQError(zmq.EADDRINUSE))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise endpoint_error(name, endpoint, error) from None


def remove_file(endpoint: str) -> None:
    """Remove the file of a closed ipc endpoint, which libzmq leaves behind."""
    path = endpoint.removeprefix("ipc://")
    if path != endpoint:
        Path(path).unlink(missing_ok=True)


def _answers(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def configure(socket: zmq.Socket[bytes]) -> None:
    """Limits of every internal socket: no linger on close, bounded messages, quick reconnect."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, codec.MAX_FRAME)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)


def watch_link(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Make the next bind or connect notice a link that is cut, where it goes over TCP."""
    if endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS[0])
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_MS[1])
        socket.setsockopt(zmq.CONNECT_TIMEOUT, HEARTBEAT_MS[1])
        # What is meant for one who is away is not kept: it would come in a flood, and too late.
        socket.setsockopt(zmq.IMMEDIATE, 1)


def endpoint_error(name: str, endpoint: str, error: zmq.ZMQError) -> UserError:
    """The one line for an endpoint that cannot be bound or connected."""
    if error.errno == zmq.EADDRINUSE:
        return UserError(
            f"{name} endpoint {endpoint} is already in use; "
            "stop the other program or choose another"
        )
    return UserError(
        f"{name} endpoint {endpoint!r} is not usable ({error.strerror}); "
        "allowed: tcp://ADDRESS:PORT or ipc://PATH"
    )


def send(socket: zmq.Socket[bytes], message: codec.Message) -> bool:
    """Send without ever waiting; False if the peer's queue is full."""
    try:
        socket.send(internal.encode(message), zmq.DONTWAIT)
    except zmq.Again:
        return False
    return True
