"""HTTP connections with deadlines: a slow or silent client must not block the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 256
"""Connections at the same time; a request on another one is answered with 503."""
INCOMPLETE = 96
"""Connections without a complete request; one more closes the oldest of them."""
REQUEST_S = 10.0
"""Longest time from the first byte of a request, or from the connection, to its end."""
WRITE_S = 30.0
"""Longest time that a client may leave a full buffer unread."""


class DeadlineProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a request deadline, a write deadline and a bound."""

    _since = 0.0
    _request_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    @property
    def incomplete(self) -> bool:
        """Whether no complete request has arrived that still needs its response."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_request_timer()
        others = [
            connection
            for connection in self.connections
            if isinstance(connection, DeadlineProtocol)
            and connection.incomplete
            and not connection.transport.is_closing()
        ]
        if len(others) > INCOMPLETE:
            min(others, key=lambda connection: connection._since)._abort()

    def data_received(self, data: bytes) -> None:
        if self._request_timer is None and self.incomplete:
            self._start_request_timer()
        super().data_received(data)
        if not self.incomplete:
            self._cancel_request_timer()

    def on_response_complete(self) -> None:
        self._cancel_request_timer()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_S, self._abort)

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_request_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def _start_request_timer(self) -> None:
        self._since = self.loop.time()
        self._request_timer = self.loop.call_later(REQUEST_S, self._request_deadline)

    def _request_deadline(self) -> None:
        self._request_timer = None
        if self.incomplete:
            self._abort()

    def _abort(self) -> None:
        """Close at once; the kernel must not keep the data that the client does not read."""
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _cancel_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None
