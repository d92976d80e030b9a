"""The page of a fleet, at its centre: each box and what is wrong with it.

It has the access rules, the style and the languages of the live page. While a page is open, the
centre is asked again and again; each answer is sent to all pages as a server-sent event `state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from speech_emotion import __version__
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.exposure import listen_tcp, split_listen
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.dashboard.access.http_server import HttpServer, address_of
from speech_emotion.dashboard.access.middleware import AccessMiddleware
from speech_emotion.dashboard.access.tls import Certificate
from speech_emotion.dashboard.api.operations import BASE
from speech_emotion.dashboard.static_files import STATIC

log = logging.getLogger("fleet status")

ASK_S = 1.0
"""Shortest interval of the questions to the centre, and longest one of the events."""
SHARE = 4.0
"""It waits at least this many times as long as an answer took: of many boxes, some seconds."""
RETRY_MS = 500
TURN_S = 0.1

Ask: TypeAlias = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Gives a row for each box, the worst first; raises UserError where the centre does not answer."""


class FleetPage:
    """The application, and what its pages show.

    Args:
        ask: asks the centre.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._boxes: list[dict[str, Any]] | None = None
        self._answered: float | None = None
        self._error: str | None = None
        self._open = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Condition()
        self.app = Starlette(
            routes=[
                Route(f"{BASE}/events", self._events),
                Route(f"{BASE}/service", self._service),
                Route("/", self._page),
                Mount("/", StaticFiles(directory=STATIC)),
            ]
        )

    async def follow(self) -> None:
        """Ask while a page is open, until cancelled."""
        while True:
            await self._wanted.wait()
            began, pause = time.monotonic(), ASK_S
            try:
                self._boxes, self._error = await self._ask(), None
                self._answered = time.time()
                pause = max(ASK_S, SHARE * (time.monotonic() - began))
            except UserError as error:
                self._error = str(error)
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(pause)

    def state(self) -> str:
        """What a page shows, as JSON; docs/FLEET.md describes it."""
        return json.dumps(
            {
                "now": time.time(),
                "boxes": self._boxes,
                "answered": self._answered,
                "error": self._error,
            }
        )

    async def _events(self, _: Request) -> Response:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._body(), media_type="text/event-stream", headers=headers)

    async def _body(self) -> AsyncIterator[str]:
        self._open += 1
        self._wanted.set()
        try:
            yield f"retry: {RETRY_MS}\n\n"
            while True:
                yield f"event: state\ndata: {self.state()}\n\n"
                async with self._changed:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), ASK_S)
        finally:
            self._open -= 1
            if not self._open:  # the next page must not show an old answer
                self._wanted.clear()
                self._boxes = self._answered = self._error = None

    async def _service(self, _: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def _page(self, _: Request) -> Response:
        return FileResponse(STATIC / "fleet/page.html", headers={"cache-control": "no-cache"})


async def serve(
    ask: Ask, listen: str, token: str | None, tls: Certificate | None, stop: StopRequest
) -> None:
    """Serve the page until a stop is requested.

    Args:
        listen: HOST:PORT.
        token: the access token; None: only this machine is answered.

    Raises:
        UserError: the address cannot be used.
    """
    page = FleetPage(ask)
    host, _ = split_listen(listen)
    listener = listen_tcp(listen)
    server = HttpServer(AccessMiddleware(page.app, host, token, tls=tls is not None), tls)
    serving = await server.begin(listener)
    following = asyncio.create_task(page.follow())
    log.info("the page is at %s", address_of(host, listener, tls))
    try:
        while not stop.requested and not serving.done() and not following.done():
            await asyncio.sleep(TURN_S)
    finally:
        server.end()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await serving
