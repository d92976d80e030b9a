"""A connection to a process that may be restarted."""

from __future__ import annotations

from typing import Any

import zmq

from speech_emotion.common.wire import codec
from speech_emotion.common.wire.sockets import ClientKeys, attach, dealer, drain, send


class Link:
    """A DEALER that reports each new connection: the process at its other end may be a new one.

    Attributes:
        socket: the DEALER.
        events: readable when `renewed` has something to report.
        descriptor: of `events`; read until `renewed` is false, then wait for it.

    Raises:
        UserError: the endpoint is malformed, or a key.
    """

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, name: str, keys: ClientKeys | None = None
    ) -> None:
        self.socket = dealer(context, keys)
        # The handshake is over when the process reads, not when its endpoint is bound.
        self.events: zmq.Socket[bytes] = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
        self.events.setsockopt(zmq.LINGER, 0)
        self.descriptor: int = self.events.FD
        attach(self.socket, endpoint, name)

    def renewed(self) -> bool:
        """Whether a connection was made since the last call."""
        return len(list(drain(self.events))) > 0

    def send(self, message: codec.Message) -> bool:
        """Send without blocking; False if the peer's queue is full or there is no connection."""
        return send(self.socket, message)

    def close(self, linger_ms: int) -> None:
        """Close after sending what is queued, for at most `linger_ms`."""
        self.events.close()
        self.socket.close(linger=linger_ms)
