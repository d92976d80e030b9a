"""The HTTP server of `/metrics`: few connections, short deadlines, known hosts or a token."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import threading
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.exposure import split_listen
from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.common.wire.public import Health
from speech_emotion.supervision.metrics.collector import HealthCollector

MAX_CONNECTIONS = 32
"""Most connections at once; a further one is closed."""

MAX_HEAD = 8192
"""Longest request head in bytes."""

DEADLINE_S = 10.0
"""Longest time of a connection, from accept to the last byte of the answer, in seconds."""

TEXT = "text/plain; charset=utf-8"


class MetricsServer:
    """Serves `/metrics` from a thread of its own until closed.

    Without a token it answers only requests whose `Host` is this machine or `address`: a page of
    another site in a browser could otherwise read it through its own DNS name. With a token, each
    request needs `Authorization: Bearer TOKEN`.

    Args:
        address, port: where to listen; port 0 is any free one.
        health: makes the current `Health`; called from the server's thread.
        token: the access token.

    Attributes:
        port: the port it listens on.

    Raises:
        UserError: the port is in use or may not be used.
    """

    def __init__(
        self, address: str, port: int, health: Callable[[], Health], token: str | None = None
    ) -> None:
        self._address = address
        self._token = token
        self._registry = CollectorRegistry()
        self._registry.register(HealthCollector(health))
        self._connections = 0
        self._loop = asyncio.new_event_loop()
        try:
            self._server = self._loop.run_until_complete(
                asyncio.start_server(self._serve, address, port, limit=MAX_HEAD)
            )
        except OSError as error:
            self._loop.close()
            raise UserError(
                f"metrics at {address}:{port} cannot be served ({error.strerror}); "
                "stop the other program or choose another metrics.port"
            ) from None
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all connections and end the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end_connections())
        self._loop.close()

    async def _end_connections(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                    await asyncio.wait_for(self._answer(reader, writer), DEADLINE_S)
        finally:
            self._connections -= 1
            # Not close(): it would wait for a client that does not read.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            status, kind, body = self._response(head.decode("latin-1"))
        except asyncio.LimitOverrunError:
            status, kind, body = "431 Request Header Fields Too Large", TEXT, b"too long\n"
            head = b""
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if not head.startswith(b"HEAD "):
            writer.write(body)
        await writer.drain()
        writer.write_eof()
        while await reader.read(MAX_HEAD):  # the client has the answer when it closes
            pass

    def _response(self, head: str) -> tuple[str, str, bytes]:
        """Status, content type and body for a request head."""
        first, *lines = head.split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", TEXT, b"use GET\n"
        if (refusal := self._refusal(headers)) is not None:
            return refusal
        if path != "/metrics":
            return "404 Not Found", TEXT, b"see /metrics\n"
        encode, kind = choose_encoder(headers.get("accept", ""))
        return "200 OK", kind, encode(self._registry)

    def _refusal(self, headers: Mapping[str, str]) -> tuple[str, str, bytes] | None:
        if self._token is not None:
            given = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return "401 Unauthorized", TEXT, b"needs: Authorization: Bearer metrics.token\n"
            return None
        host = headers.get("host", "").lower()
        name = split_listen(host)[0] if ":" in host.rpartition("]")[2] else host.strip("[]")
        if is_loopback(name) or name == self._address:
            return None
        return "403 Forbidden", TEXT, b"answers to localhost only; set metrics.token\n"
