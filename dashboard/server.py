"""The page's server: static files, the live feed as server-sent events, the past, CSV, the card."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.history import COLUMNS, Reader
from speech_emotion.dashboard.live_state import LiveState
from speech_emotion.dashboard.model_cards import find_card, folders
from speech_emotion.dashboard.static_files import STATIC

VIEWERS = 64
QUEUE = 1 << 22
"""Characters that wait for one page; a page further behind is cut off, and is greeted anew."""
TOGETHER_S = 0.02
"""What comes within this time goes out together."""
LONGEST_S = 31 * 86400.0
"""A page looks at no more at once; a CSV file may be longer."""
ROWS = 1200
QUERIES = 2
WHAT = ("result", "utterance", "health")

T = TypeVar("T")


class Viewer:
    """One open page: lines that wait for it."""

    def __init__(self) -> None:
        self.cut = False
        self._lines: list[str] = []
        self._size = 0
        self._there = asyncio.Event()

    def put(self, line: str) -> bool:
        """Queue a line; False where the page is too slow and must be cut off."""
        self._size += len(line)
        self.cut = self.cut or self._size > QUEUE
        if self.cut:
            self._lines.clear()
        else:
            self._lines.append(line)
        self._there.set()
        return not self.cut

    def leave(self) -> None:
        """End the page's stream."""
        self.cut = True
        self._there.set()

    async def events(self, greeting: str) -> AsyncIterator[str]:
        """The body of the answer: one event a line."""
        yield f"retry: 500\ndata: {greeting}\n\n"
        while not self.cut:
            await self._there.wait()
            await asyncio.sleep(TOGETHER_S)
            self._there.clear()
            lines, self._lines, self._size = self._lines, [], 0
            if lines:
                yield "".join(f"data: {line}\n\n" for line in lines)


class Pages:
    """All open pages, and the application that serves them.

    Args:
        board: what a new page is greeted with.
        history: the SQLite file, or None.
        bundle: a folder whose card may be asked for, beside the shipped ones.
    """

    def __init__(self, board: LiveState, history: Path | None, bundle: Path | None) -> None:
        self.counters: Counter[str] = Counter()
        self.app = Starlette(
            routes=[
                Route("/", _index),
                Route("/events", self._events),
                Route("/recent", self._recent),
                Route("/history", self._past),
                Route("/history.csv", self._csv),
                Route("/card", self._card),
                Mount("/", StaticFiles(directory=STATIC)),
            ],
            exception_handlers={UserError: _mistake},
        )
        self._board = board
        self._history = history
        self._bundle = bundle
        self._viewers: set[Viewer] = set()
        self._queries = asyncio.Semaphore(QUERIES)

    def tell(self, line: str | None) -> None:
        """Send a line to every open page."""
        if line is None:
            return
        for viewer in list(self._viewers):
            if not viewer.put(line):
                self._viewers.discard(viewer)
                self.counters["dashboard_viewers_cut"] += 1

    def close(self) -> None:
        """End every page's stream; the pages try again by themselves."""
        for viewer in self._viewers:
            viewer.leave()

    async def _events(self, _: Request) -> Response:
        if len(self._viewers) >= VIEWERS:
            return PlainTextResponse(f"{VIEWERS} pages are open already\n", 503)
        viewer = Viewer()
        self._viewers.add(viewer)  # before the greeting is made, so that nothing falls between

        async def body() -> AsyncIterator[str]:
            try:
                async for text in viewer.events(self._board.greeting()):
                    yield text
            finally:
                self._viewers.discard(viewer)

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(body(), media_type="text/event-stream", headers=headers)

    async def _recent(self, request: Request) -> Response:
        text = self._board.recent(request.query_params.get("stream", ""))
        return Response(text, media_type="application/json", headers={"cache-control": "no-store"})

    async def _past(self, request: Request) -> Response:
        stream, start, end = _span(request)
        if end - start > LONGEST_S:
            raise UserError(f"from end to start are at most {LONGEST_S:.0f} s")

        def read(reader: Reader) -> dict[str, Any]:
            return {
                **reader.windows(stream, start, end, ROWS),
                "utterances": reader.utterances(stream, start, end),
                "bounds": reader.bounds(stream),
                "columns": COLUMNS,
            }

        async with self._queries:
            found = await run_in_threadpool(self._read, read)
        return JSONResponse(found, headers={"cache-control": "no-store"})

    async def _csv(self, request: Request) -> Response:
        stream, start, end = _span(request)
        what = request.query_params.get("what", WHAT[0])
        if what not in WHAT:
            raise UserError(f"what = {what[:40]!r} must be one of {', '.join(WHAT)}")
        reader = await run_in_threadpool(self._reader)

        def lines() -> Iterator[str]:
            with reader:
                yield from reader.csv(what, stream, start, end)

        day = time.strftime("%Y-%m-%d", time.localtime(start))
        name = f"{what}-{_file_name(stream)}-{day}.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(lines(), media_type="text/csv", headers=headers)

    async def _card(self, request: Request) -> Response:
        identity = request.query_params.get("bundle", "")
        card = await run_in_threadpool(find_card, identity, folders(self._bundle))
        if card is None:
            return PlainTextResponse("there is no card of this bundle on this machine\n", 404)
        return HTMLResponse(card)

    def _reader(self) -> Reader:
        if self._history is None:
            raise UserError("no history is kept; see --history")
        return Reader(self._history)

    def _read(self, read: Callable[[Reader], T]) -> T:
        with self._reader() as reader:
            return read(reader)


async def _index(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _mistake(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 400)


def _span(request: Request) -> tuple[str, float, float]:
    values = []
    for name in ("start", "end"):
        text = request.query_params.get(name, "")
        with contextlib.suppress(ValueError):
            if math.isfinite(value := float(text)):
                values.append(value)
                continue
        raise UserError(f"{name} = {text[:40]!r} must be a unix time")
    start, end = values
    if not 0.0 <= start < end < 1e11:
        raise UserError("start must be before end")
    return request.query_params.get("stream", ""), start, end


def _file_name(text: str) -> str:
    return "".join(c for c in text if c.isascii() and (c.isalnum() or c in "-_"))[:40] or "all"
