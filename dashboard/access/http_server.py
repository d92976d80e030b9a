"""uvicorn as both pages use it: no signal handlers, bounded connections, deadlines, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from speech_emotion.dashboard.access.connections import CONNECTIONS, DeadlineProtocol
from speech_emotion.dashboard.access.tls import HANDSHAKE_S, Certificate

BACKLOG = 64


class HttpServer(uvicorn.Server):
    """A uvicorn server that installs no signal handlers and bounds the time of a TLS handshake.

    Args:
        app: the application.
        tls: the certificate; None: plain HTTP.
    """

    def __init__(self, app: ASGIApp, tls: Certificate | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=DeadlineProtocol,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=1,
            )
        )
        self._tls = tls
        # uvicorn logs each malformed request; a port scan would fill the log.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. uvicorn itself would wait a minute for a silent client's handshake."""
        await super().startup(sockets=[])
        config = self.config

        def protocol() -> asyncio.Protocol:
            return DeadlineProtocol(config, self.server_state, self.lifespan.state)

        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls.context, "ssl_handshake_timeout": HANDSHAKE_S}
        loop = asyncio.get_running_loop()
        for sock in sockets or ():
            self.servers.append(
                await loop.create_server(protocol, sock=sock, backlog=BACKLOG, **tls)
            )

    async def begin(self, listener: socket.socket) -> asyncio.Task[None]:
        """Serve in a task of its own; returns when requests are answered."""
        serving = asyncio.create_task(self.serve([listener]))
        while not self.started and not serving.done():
            await asyncio.sleep(0.01)
        return serving

    def end(self) -> None:
        """Let `serve` return. uvicorn logs an error for a page that it disconnects at the end."""
        logging.getLogger("uvicorn.error").disabled = True
        self.should_exit = True


def address_of(host: str, listener: socket.socket, tls: Certificate | None) -> str:
    """The address of a listener on a host, for a browser."""
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{listener.getsockname()[1]}"
