"""The HTTP routes: static files, live events, history, CSV export and the model card."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
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

from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.internal import MuteSet, SetMute
from speech_emotion.dashboard.history.csv_export import CsvExport
from speech_emotion.dashboard.history.reader import COLUMNS, HistoryReader
from speech_emotion.dashboard.live.live_state import LiveState
from speech_emotion.dashboard.live.viewers import Viewer
from speech_emotion.dashboard.model_cards import bundle_folders, find_card
from speech_emotion.dashboard.static_files import STATIC

VIEWERS = 64
"""Largest number of open pages."""
LONGEST_S = 31 * 86400.0
"""Longest time span of one `/history` request; a CSV file may be longer."""
ROWS = 1200
"""Rows of one `/history` answer; more are aggregated."""
QUERIES = 2
"""`/history` requests that are answered at the same time."""
BODY = 1024
"""Longest body of a request in bytes."""
TABLES = ("result", "utterance", "health")

T = TypeVar("T")


class PageServer:
    """The application and its open pages.

    Args:
        live_state: state that a new page gets first.
        history: the SQLite file, or None.
        bundle: folder of a bundle whose model card is served, besides the shipped ones.
        control: control socket of the supervisor that `/mute` asks; None: `/mute` is refused.
    """

    def __init__(
        self,
        live_state: LiveState,
        history: Path | None,
        bundle: Path | None,
        control: Path | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.app = Starlette(
            routes=[
                Route("/", _index),
                Route("/events", self._events),
                Route("/recent", self._recent),
                Route("/history", self._get_history),
                Route("/history.csv", self._csv),
                Route("/card", self._card),
                Route("/mute", self._mute, methods=["POST"]),
                Mount("/", StaticFiles(directory=STATIC)),
            ],
            exception_handlers={UserError: _bad_request},
        )
        self._live_state = live_state
        self._history = history
        self._bundle = bundle
        self._control = control
        self._viewers: set[Viewer] = set()
        self._queries = asyncio.Semaphore(QUERIES)

    def broadcast(self, line: str | None) -> None:
        """Send a line to every open page."""
        if line is None:
            return
        for viewer in list(self._viewers):
            if not viewer.put(line):
                self._viewers.discard(viewer)
                self.counters["dashboard_viewers_cut"] += 1

    def close(self) -> None:
        """End all event streams; the pages reconnect."""
        for viewer in self._viewers:
            viewer.close()

    async def _events(self, _: Request) -> Response:
        if len(self._viewers) >= VIEWERS:
            return PlainTextResponse(f"{VIEWERS} pages are open already\n", 503)
        viewer = Viewer()
        self._viewers.add(viewer)  # before the greeting is built, so that no line is missed

        async def body() -> AsyncIterator[str]:
            try:
                async for text in viewer.events(self._live_state.greeting()):
                    yield text
            finally:
                self._viewers.discard(viewer)

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(body(), media_type="text/event-stream", headers=headers)

    async def _recent(self, request: Request) -> Response:
        text = self._live_state.recent(request.query_params.get("stream", ""))
        return Response(text, media_type="application/json", headers={"cache-control": "no-store"})

    async def _get_history(self, request: Request) -> Response:
        stream, start, end = _span(request)
        if end - start > LONGEST_S:
            raise UserError(f"end - start must be at most {LONGEST_S:.0f} s")

        def read(reader: HistoryReader) -> dict[str, Any]:
            windows = reader.windows(stream, start, end, ROWS)
            step = windows["step"]
            return {
                **windows,
                "utterances": reader.utterances(stream, start, end),
                "utterance_count": reader.count_utterances(stream, start, end),
                "utterance_bins": (
                    reader.utterance_bins(stream, start, end, step) if step else None
                ),
                "bounds": reader.bounds(stream),
                "columns": COLUMNS,
            }

        async with self._queries:
            answer = await run_in_threadpool(self._read, read)
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    async def _csv(self, request: Request) -> Response:
        stream, start, end = _span(request)
        table = request.query_params.get("what", TABLES[0])
        if table not in TABLES:
            raise UserError(f"what = {table[:40]!r} must be one of {', '.join(TABLES)}")
        export = await run_in_threadpool(CsvExport, self._history_file(), table, stream, start, end)
        day = time.strftime("%Y-%m-%d", time.localtime(start))
        name = f"{table}-{_file_name(stream)}-{day}.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(export.text(), media_type="text/csv", headers=headers)

    async def _card(self, request: Request) -> Response:
        bundle_id = request.query_params.get("bundle", "")
        card = await run_in_threadpool(find_card, bundle_id, bundle_folders(self._bundle))
        if card is None:
            return PlainTextResponse("this machine has no model card of this bundle\n", 404)
        return HTMLResponse(card)

    async def _mute(self, request: Request) -> Response:
        """Mute or unmute by hand; the body is the JSON object `{"muted": …, "seconds": …}`."""
        if self._control is None:
            raise UserError("this page cannot mute: its server was not started by the pipeline")
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise UserError("the request must be application/json")
        client = request.client.host if request.client is not None else "unknown"
        asked = mute_request(await _small_body(request), f"page at {client}")
        answer = await run_in_threadpool(ask, self._control, asked, MuteSet)
        table = {"ok": answer.code == EXIT_OK, "text": answer.text}
        return JSONResponse(table, headers={"cache-control": "no-store"})

    def _history_file(self) -> Path:
        if self._history is None:
            raise UserError("no history is written; start with --history FILE")
        return self._history

    def _read(self, read: Callable[[HistoryReader], T]) -> T:
        with HistoryReader(self._history_file()) as reader:
            return read(reader)


async def _index(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _small_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        UserError: it is longer than `BODY` bytes.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY:
            raise UserError(f"the request is longer than {BODY} bytes")
    return body


def mute_request(body: bytes, by: str) -> SetMute:
    """The request to the supervisor.

    Raises:
        UserError: the body is no such request.
    """
    try:
        table = json.loads(body)
        muted, seconds = table["muted"], table.get("seconds")
        if type(muted) is not bool or not (seconds is None or type(seconds) in (int, float)):
            raise TypeError
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError('the request must be JSON such as {"muted": true, "seconds": 60}') from None
    return SetMute(muted, None if seconds is None else float(seconds), by)


async def _bad_request(_: Request, error: Exception) -> Response:
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
