"""Writes the audit log in a thread of its own: a disk that stalls must not stop the supervisor."""

from __future__ import annotations

import collections
import logging
import threading
import time
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import UserError
from speech_emotion.common.privacy.audit_log import AuditLog

log = logging.getLogger("audit")

HELD = 10_000
"""Records that wait for a disk; further ones are dropped and counted."""
RETRY_S = 1.0
CLOSE_S = 3.0
"""Longest time in seconds that the end waits for the last records to be written."""
BURST = 10
"""Records of one kind per minute that other programs can cause; more are counted in the next."""
MINUTE_S = 60.0


class AuditWriter:
    """Any thread may call `note` and `note_bounded`.

    Args:
        path: the file; None: nothing is written.
        max_bytes, keep: as in `AuditLog`.

    Attributes:
        dropped: records that were not written.

    Raises:
        UserError: the log cannot be opened.
    """

    def __init__(self, path: Path | None, *, max_bytes: int = 0, keep: int = 0) -> None:
        self.dropped = 0
        self._waiting: collections.deque[tuple[float, str, dict[str, Any]]] = collections.deque()
        self._changed = threading.Condition()
        self._bounds: dict[str, _Bound] = {}
        self._closing = False
        self._log: AuditLog | None = None
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        if path is None:
            return
        try:
            self._log = AuditLog(path, max_bytes=max_bytes, keep=keep)
        except OSError as error:
            raise UserError(f"audit log {path}: {error.strerror}") from None
        last = self._log.last
        log.info("audit log %s: last record %s", path, f"{last.n} {last.hash}" if last else "none")
        if self._log.torn:
            self.note("audit torn", bytes=self._log.torn)
        if self._log.damaged is not None:
            log.error("audit log %s: its last line is damaged; see audit verify", path)
            self.note("audit damaged", reason=self._log.damaged)
        if last is not None and last.table.get("event") not in ("stop", "audit damaged"):
            self.note("no stop", after=last.n)
        self._thread.start()

    def note(self, event: str, **details: Any) -> None:
        """Append a record."""
        if self._log is None:
            return
        with self._changed:
            if len(self._waiting) >= HELD:
                self.dropped += 1
                return
            self._waiting.append((time.time(), event, details))
            self._changed.notify()

    def note_bounded(self, event: str, **details: Any) -> None:
        """Append a record that another program caused: at most `BURST` a minute of each event.

        The next record has the number of those that were left out as `more`.
        """
        bound = self._bounds.setdefault(event, _Bound())
        with self._changed:
            more = bound.admit(time.monotonic())
        if more is not None:
            self.note(event, **details, **({"more": more} if more else {}))

    def close(self) -> None:
        """Write what waits, `CLOSE_S` at most, and close the log."""
        if self._log is None or self._closing:
            return
        for event, bound in self._bounds.items():
            if bound.left_out:
                self.note(event, more=bound.left_out)
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            if (last := self._log.last) is not None:
                log.info("audit log: last record %d %s", last.n, last.hash)
            self._log.close()

    def _run(self) -> None:
        assert self._log is not None
        failing = False
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting or (failing and self._closing):
                    self.dropped += len(self._waiting)
                    return
                at, event, details = self._waiting[0]
            try:
                self._log.append(at, event, details)
            except OSError as error:
                if not failing:
                    log.error("the audit log cannot be written (%s); trying again", error.strerror)
                failing = True
                time.sleep(RETRY_S)
                continue
            if failing:
                failing = False
                log.warning("the audit log is written again; %d records lost", self.dropped)
            with self._changed:
                self._waiting.popleft()


class _Bound:
    """Admits a number of events per minute."""

    def __init__(self) -> None:
        self.left_out = 0
        self._began = -MINUTE_S
        self._admitted = 0

    def admit(self, now: float) -> int | None:
        """How many were left out before this one; None: leave this one out."""
        if now - self._began >= MINUTE_S:
            self._began, self._admitted = now, 0
        if self._admitted >= BURST:
            self.left_out += 1
            return None
        self._admitted += 1
        left_out, self.left_out = self.left_out, 0
        return left_out
