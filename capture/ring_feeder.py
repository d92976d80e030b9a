"""From a source's blocks to the ring: channel, rate, write, tick. Any block size gives the same."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from speech_emotion.capture.sources.sound_file import Samples, quantize, to_mono
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.wire.internal import Tick

TICK_S = 0.2
"""Between window boundaries, a tick at most so often."""
LOOK_S = 0.1
"""Sound that completes no window may wait so long for the next look."""

NOTHING: Samples = np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class StreamFormat:
    """What a stream is made of: its rate and its window grid, in Hz and samples."""

    rate: int
    window: int
    hop: int

    def complete(self, position: int) -> int:
        """How many windows have all their samples once `position` samples are there."""
        return 0 if position < self.window else 1 + (position - self.window) // self.hop


class RingFeeder:
    """Feeds one stream. Not thread-safe: it belongs to the loop that reads the source.

    Args:
        stream: the stream's name.
        ring: attached writer; what it already holds of this source is not written again.
        source_rate: Hz of the blocks fed.
        skip: samples, at the stream's rate, to drop first: those that an earlier process of
            the same source has written.
        send: takes every tick.
    """

    def __init__(
        self,
        stream: str,
        ring: RingWriter,
        source_rate: int,
        form: StreamFormat,
        send: Callable[[Tick], None],
        *,
        channel: int | None = None,
        skip: int = 0,
    ) -> None:
        self.stream = stream
        self.ring = ring
        self.ended = False
        self.level_db: float | None = None
        self._form = form
        self._send = send
        self._channel = channel
        self.skip = skip
        self._source_rate = source_rate
        self._resampler = self._new_resampler()
        self._unix: float | None = None
        self._ticked = 0.0

    def _new_resampler(self) -> Any:
        if self._source_rate == self._form.rate:
            return None
        import soxr

        return soxr.ResampleStream(self._source_rate, self._form.rate, 1, dtype="float32")

    @property
    def position(self) -> int:
        """Absolute index behind the last sample in the ring."""
        return self.ring.index

    def anchor(self, index: int, monotonic: float, unix: float | None) -> None:
        """Tie a sample index to the clocks; unix is None where time means nothing."""
        self._unix = unix
        self.ring.set_anchor(index, monotonic, 0.0 if unix is None else unix)

    def feed(self, block: Samples) -> None:
        """Take the next block of the source, (frames, channels) at its rate."""
        samples = to_mono(block, self._channel)
        if len(samples):
            self.level_db = rms_dbfs(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples))
        self._write(quantize(samples))
        self.tick()

    def patience(self) -> int:
        """Frames of the source that may come before there is something to announce."""
        complete = self._form.complete(self.position)
        missing = self._form.window + complete * self._form.hop - self.position
        frames = -(-missing * self._source_rate // self._form.rate)
        return min(frames, int(LOOK_S * self._source_rate))

    def flush(self) -> None:
        """Write what the resampler still holds; what comes next does not join on to it."""
        if self._resampler is not None:
            self._write(quantize(self._resampler.resample_chunk(NOTHING, last=True)))
            self._resampler = self._new_resampler()

    def gap(self, samples: int) -> None:
        """`samples`, at the stream's rate, are missing here."""
        if samples > 0:
            self.ring.gap(samples)
            self.tick(now=True)

    def finish(self) -> None:
        """The source has ended: write what the resampler still holds and say so."""
        self.flush()
        self.ended = True
        self.tick(now=True)

    def tick(self, *, now: bool = False) -> None:
        """Announce the position if that is due, or at once."""
        monotonic = time.monotonic()
        if now or monotonic - self._ticked >= TICK_S:
            self._ticked = monotonic
            self._send(self._tick())

    def _write(self, samples: Samples) -> None:
        if self.skip:
            dropped = min(self.skip, len(samples))
            self.skip -= dropped
            samples = samples[dropped:]
        if not len(samples):
            return
        before = self._form.complete(self.position)
        self.ring.write(samples)
        if self._form.complete(self.position) > before:
            self.tick(now=True)

    def _tick(self) -> Tick:
        index, monotonic, _ = self.ring.anchor
        return Tick(
            stream=self.stream,
            run=self.ring.run,
            ring=self.ring.name,
            generation=self.ring.generation,
            position=self.position,
            ended=self.ended,
            anchor_index=index,
            anchor_monotonic=monotonic,
            anchor_unix=self._unix,
            gaps=[[a, b] for a, b in self.ring.gaps()],
        )
