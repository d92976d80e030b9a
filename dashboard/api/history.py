"""The operations on the history file: pages, downloads, summaries."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.api.declared import RefusedError
from speech_emotion.dashboard.api.operations import PARQUET
from speech_emotion.dashboard.history.csv_export import csv_text
from speech_emotion.dashboard.history.reader import COLUMNS, HistoryReader
from speech_emotion.dashboard.history.rows import HistoryRows, Key

QUERIES = 2
"""Questions that are answered at the same time."""
EXPORTS = 2
"""Parquet files that are written at the same time, each by a process."""
DEFAULT_S = 3600.0
"""Time span where no beginning is given."""
LIMIT_S = 1e12
"""Unix time beyond which there is nothing: the length of a time span must be finite."""
SUMMARY_ROWS = 1200
SHARE_ROWS = 20_000
SHARE_COLUMNS = (
    *("stream", "time", "windows", "speech", "gap"),
    *("shares", "utterances", "utterance_count"),
)
PART = 1 << 16
EXPORTER = "speech_emotion.dashboard.history.parquet_export"

T = TypeVar("T")


class HistoryOperations:
    """Answers questions about a history file.

    Args:
        path: the file; None: every question is refused.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._queries = asyncio.Semaphore(QUERIES)
        self._exports = 0

    async def summary(self, given: Mapping[str, Any]) -> str:
        """`messages.Summary`: a time span for a chart."""
        start, end = _span(given)
        stream: str = given["stream"]

        def read() -> str:
            with HistoryReader(self._file()) as reader:
                windows = reader.windows(stream, start, end, SUMMARY_ROWS)
                step = windows["step"]
                bins = reader.utterance_bins(stream, start, end, SUMMARY_ROWS) if step else None
                spoken = reader.utterances(stream, start, end)
                answer = messages.Summary(
                    **windows,
                    utterances=[messages.SpokenSpan(**one) for one in spoken],
                    utterance_count=reader.count_utterances(stream, start, end),
                    utterance_bins=None
                    if bins is None
                    else [messages.UtteranceBin(**one) for one in bins],
                    bounds=reader.bounds(stream),
                    columns=[*COLUMNS],
                )
                return messages.to_json(answer)

        return await self._ask(read)

    async def shares(self, given: Mapping[str, Any]) -> str:
        """`messages.Shares`."""
        start, end = _span(given)
        step: int = given["step"]

        def read() -> str:
            with HistoryReader(self._file()) as reader:
                try:
                    found = reader.shares(given["stream"] or None, start, end, step, SHARE_ROWS)
                except ValueError:
                    text = f"more than {SHARE_ROWS} rows: shorten the time or name a stream"
                    raise RefusedError(400, text) from None
            return messages.to_json(messages.Shares(step, columns=[*SHARE_COLUMNS], **found))

        return await self._ask(read)

    async def utterance_list(self, given: Mapping[str, Any]) -> str:
        """`messages.UtteranceList`."""
        start, end = _span(given)
        limit: int = given["limit"]

        def read() -> str:
            with HistoryReader(self._file()) as reader:
                found = reader.newest_utterances(
                    *(given["stream"] or None, given["label"] or None, start, end, limit + 1),
                    given["before"],
                )
            following = str(Key(*found[limit - 1][0])) if len(found) > limit else None
            rows = [messages.ListedUtterance(**one) for _, one in found[:limit]]
            return messages.to_json(messages.UtteranceList(rows, following))

        return await self._ask(read)

    async def page(self, given: Mapping[str, Any]) -> str:
        """`messages.HistoryPage`."""
        limit: int = given["limit"]

        def read() -> str:
            with self._rows(given) as rows:
                pairs = list(itertools.islice(rows, limit + 1))
            following = str(pairs[limit - 1][0]) if len(pairs) > limit else None
            found = [row for _, row in pairs[:limit]]
            return messages.to_json(messages.HistoryPage(given["table"], found, following))

        return await self._ask(read)

    async def csv(self, given: Mapping[str, Any]) -> Response:
        """All rows as CSV."""
        rows = await self._ask(lambda: self._rows(given))
        return StreamingResponse(csv_text(rows), media_type="text/csv", headers=_named(given))

    async def parquet(self, given: Mapping[str, Any]) -> Response:
        """All rows as Parquet, written by a process of its own."""
        if importlib.util.find_spec("pyarrow") is None:
            raise RefusedError(501, f"Parquet {needs_extra('archive')}")
        if self._exports >= EXPORTS:
            text = f"{EXPORTS} Parquet files are being written already"
            raise RefusedError(503, text, {"retry-after": "10"})
        (await self._ask(lambda: self._rows(given))).close()
        start, end = _span(given)
        words = [str(self._file()), given["table"], given["stream"] or "", repr(start), repr(end)]
        if given["after"] is not None:
            words.append(str(given["after"]))
        return StreamingResponse(self._exported(words), media_type=PARQUET, headers=_named(given))

    async def _exported(self, words: list[str]) -> AsyncIterator[bytes]:
        self._exports += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", EXPORTER, *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            try:
                while part := await process.stdout.read(PART):
                    yield part
                if await process.wait():
                    raise RuntimeError("the Parquet file was not completed")
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finally:
            self._exports -= 1

    async def _ask(self, question: Callable[[], T]) -> T:
        async with self._queries:
            try:
                return await run_in_threadpool(question)
            except UserError as error:
                raise RefusedError(404, str(error)) from None

    def _rows(self, given: Mapping[str, Any]) -> HistoryRows:
        start, end = _span(given)
        after = given["after"]
        return HistoryRows(self._file(), given["table"], given["stream"] or None, start, end, after)

    def _file(self) -> Path:
        if self._path is None:
            raise UserError("no history is written; start with --history FILE")
        return self._path


def _span(given: Mapping[str, Any]) -> tuple[float, float]:
    end = time.time() if given["to"] is None else given["to"]
    start = end - DEFAULT_S if given["from"] is None else given["from"]
    return max(start, -LIMIT_S), min(end, LIMIT_S)


def _named(given: Mapping[str, Any]) -> dict[str, str]:
    """The header with the name under which a browser saves the file."""
    stream = "".join(c for c in given["stream"] or "" if c.isascii() and (c.isalnum() or c in "-_"))
    seconds = min(max(_span(given)[0], 0.0), 1e11)
    day = time.strftime("%Y-%m-%d", time.localtime(seconds))
    name = f"{given['table']}-{stream[:40] or 'all'}-{day}.{given['format']}"
    return {"content-disposition": f'attachment; filename="{name}"'}
