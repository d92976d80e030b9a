"""The HTTP server of the metrics: few connections, short deadlines, a token beyond loopback."""

from __future__ import annotations

import contextlib
import hmac
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.common.wire.public import Health
from speech_emotion.supervision.prometheus import HealthCollector

CONNECTIONS = 16
"""Connections at the same time; further ones are closed."""
CONNECTION_S = 10.0
"""Longest life of a connection."""
POLL_S = 0.5


class MetricsServer:
    """Serves `/metrics` in its own threads until it is closed.

    Args:
        address, port: address to listen on; port 0 selects a free port.
        health: returns the current `Health`; called from the server's threads.
        token: secret that a client must send as `Authorization: Bearer TOKEN`; None: none.

    Raises:
        UserError: the port is in use or not permitted.
    """

    def __init__(
        self, address: str, port: int, health: Callable[[], Health], token: str | None = None
    ) -> None:
        registry = CollectorRegistry()
        registry.register(HealthCollector(health))
        try:
            self._server = _Server(address, port, registry, token)
        except OSError as error:
            raise UserError(
                f"metrics at {address}:{port} cannot be served ({error.strerror}); "
                "stop the other program or choose another metrics.port"
            ) from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: str, port: int, registry: CollectorRegistry, token: str | None
    ) -> None:
        self.address, self.registry, self.token = address, registry, token
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._began: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__((address, port), _Handler)

    def server_bind(self) -> None:
        # As HTTPServer does, but without a reverse DNS lookup.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.address, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._began) >= CONNECTIONS
            if not full:
                self._began[request] = time.monotonic()
        if full:
            super().shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread left
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut connections that are too old; called by `serve_forever` every `POLL_S`."""
        oldest = time.monotonic() - CONNECTION_S
        with self._lock:
            late = [request for request, began in self._began.items() if began < oldest]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CONNECTION_S

    def do_GET(self) -> None:
        """Answer one request; every other method is refused by the base class."""
        status, kind, body = self._answer()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def _answer(self) -> tuple[int, str, bytes]:
        text, server = "text/plain; charset=utf-8", self.server
        if server.token is not None:
            given = self.headers.get("Authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(given, f"Bearer {server.token}".encode()):
                return 401, text, b"this endpoint needs metrics.token\n"
        elif not self._own_host():
            return 403, text, b"the Host of the request is not the address of this endpoint\n"
        if self.path.partition("?")[0] not in ("/metrics", "/"):
            return 404, text, b"see /metrics\n"
        encode, kind = choose_encoder(self.headers.get("Accept", ""))
        return 200, kind, encode(server.registry)

    def _own_host(self) -> bool:
        """Whether a web page of another site, with a name that leads here, cannot be the client."""
        host = self.headers.get("Host", "")
        name = (
            host[: host.rindex("]") + 1] if host.endswith("]") else host.rpartition(":")[0] or host
        )
        name = name.removeprefix("[").removesuffix("]")
        return is_loopback(name) or name == self.server.address

    def log_message(self, *_: Any) -> None:
        """Log nothing: a port scan would fill the log."""
