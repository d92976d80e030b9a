"""Builds the `Window` messages that features sends, live and offline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.levels import SILENCE_DBFS
from speech_emotion.common.wire.internal import Window

if TYPE_CHECKING:
    from speech_emotion.features.extractor import Analysis


def no_clock(_end: int) -> tuple[float, float | None]:
    """The times of a window where sound has no clock, as offline."""
    return 0.0, None


@dataclasses.dataclass(frozen=True)
class WindowBuilder:
    """Builds the messages of one session of a stream.

    Attributes:
        stream, run, session: what the messages belong to.
        grid: the stream's window grid.
        bundle: id of the bundle that made the features.
        times: sample index → CLOCK_MONOTONIC and unix time (None: unknown) of that sample.
    """

    stream: str
    run: str
    session: str
    grid: WindowGrid
    bundle: str = ""
    times: Callable[[int], tuple[float, float | None]] = no_clock

    def analysed(self, k: int, analysis: Analysis, *, lost: int = 0, packed: bool = True) -> Window:
        """Window k with its analysis; `lost` of its samples are missing.

        Args:
            packed: whether the message carries the features, as one that is sent must.
        """
        features = analysis.features if packed else None
        return self._window(
            k,
            self.grid.end(k),
            kind=analysis.kind,
            rms_db=analysis.rms_db,
            clipped=analysis.clipped,
            lost=lost,
            features_ms=analysis.milliseconds,
            gate=analysis.gate,
            features=None if features is None else features.tobytes(),
            track=analysis.track,
        )

    def skipped(self, k: int, following: int, *, lost: int, gate: list[float]) -> Window:
        """One gap in place of the windows from k up to but without `following`."""
        end = self.grid.end(following - 1)
        return self._window(k, end, kind="gap", lost=lost, skipped=following - k, gate=gate)

    def end(self, k: int, position: int) -> Window:
        """The end of a stream that has `position` samples and no window k."""
        return self._window(k, position, kind="end")

    def _window(
        self,
        k: int,
        end: int,
        *,
        kind: str,
        rms_db: float = SILENCE_DBFS,
        clipped: float = 0.0,
        lost: int = 0,
        skipped: int = 0,
        features_ms: float = 0.0,
        gate: list[float] | None = None,
        features: bytes | None = None,
        track: bytes | None = None,
    ) -> Window:
        captured, time = self.times(end)
        return Window(
            stream=self.stream,
            run=self.run,
            session=self.session,
            seq=k,
            start=self.grid.start(k),
            end=end,
            kind=kind,
            rms_db=rms_db,
            clipped=clipped,
            lost=lost,
            skipped=skipped,
            captured=captured,
            time=time,
            features_ms=features_ms,
            gate=gate or [],
            features=features,
            bundle=self.bundle,
            track=track,
        )
