"""The queue of server-sent events of each open page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

QUEUE = 1 << 22
"""Characters that may wait for one page; more disconnect it, and it reconnects."""
BATCH_S = 0.02
"""Lines that arrive within this time are sent together."""


class Viewer:
    """One open page: the lines that wait for it."""

    def __init__(self) -> None:
        self.closed = False
        self._lines: list[str] = []
        self._size = 0
        self._changed = asyncio.Event()

    def put(self, line: str) -> bool:
        """Queue a line; False if the page reads too slowly and was disconnected."""
        self._size += len(line)
        self.closed = self.closed or self._size > QUEUE
        if self.closed:
            self._lines.clear()
        else:
            self._lines.append(line)
        self._changed.set()
        return not self.closed

    def close(self) -> None:
        """End the event stream."""
        self.closed = True
        self._changed.set()

    async def events(self, greeting: str) -> AsyncIterator[str]:
        """The response body: the greeting, then one event per line."""
        yield f"retry: 500\ndata: {greeting}\n\n"
        while not self.closed:
            await self._changed.wait()
            await asyncio.sleep(BATCH_S)
            self._changed.clear()
            lines, self._lines, self._size = self._lines, [], 0
            if lines:
                yield "".join(f"data: {line}\n\n" for line in lines)
