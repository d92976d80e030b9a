"""How far a source at full speed may be read: the ring's writer never waits, so the source does."""

from __future__ import annotations

import logging

from speech_emotion.common.wire import internal

log = logging.getLogger("capture")

RECORDER_WAIT_S = 60.0
"""Longest time in seconds that a source waits for a recorder that makes no progress. It waits
again when the recorder does: the supervisor restarts it without limit."""


class ReadAhead:
    """Limits a source to half a ring after the last accepted result, and after the recording.

    Args:
        hop: hop of the windows in samples.
        max_ahead: samples that may be read ahead.
        recorder: wait for the recorder too.
        waits: the source is limited at all; a live one is not.

    Attributes:
        accepted: newest message of the hub about accepted results; None before the first.
        recorded: newest message of the recorder; None before the first.
    """

    def __init__(self, hop: int, max_ahead: int, *, recorder: bool, waits: bool = True) -> None:
        self.waits = waits
        self.accepted: internal.Accepted | None = None
        self.recorded: internal.Recorded | None = None
        self._hop = hop
        self._max_ahead = max_ahead
        self._recorder = recorder
        self._waits_since: float | None = None
        self._waits_at: int | None = None
        self._gave_up = False

    def allows(self, position: int, now: float, *, without_hub: bool = False) -> bool:
        """Whether the sample at `position` may be read at `now` (CLOCK_MONOTONIC).

        Args:
            without_hub: before the first answer of the hub, allow half a ring.
        """
        if self.accepted is None:
            return without_hub and position < self._max_ahead
        limit = self.accepted.next * self._hop + self._max_ahead
        return position < limit and (not self._recorder or self._recorder_allows(position, now))

    def _recorder_allows(self, position: int, now: float) -> bool:
        recorded = self.recorded.position if self.recorded is not None else -self._max_ahead
        if recorded is None or position < recorded + self._max_ahead:
            self._waits_since = None
            return True
        if self._waits_since is None or recorded != self._waits_at:
            self._waits_since, self._waits_at, self._gave_up = now, recorded, False
        if now - self._waits_since < RECORDER_WAIT_S:
            return False
        if not self._gave_up:
            log.warning(
                "the recorder makes no progress for %.0f s: continuing without it", RECORDER_WAIT_S
            )
        self._gave_up = True
        return True
