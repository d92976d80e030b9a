"""From the blocks of a source to the ring: mix, resample, write, announce.

The samples in the ring do not depend on the size of the blocks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from speech_emotion.capture.channel_mix import ChannelMix
from speech_emotion.capture.quality import QualityMeter
from speech_emotion.capture.samples import Channels, Samples, quantize
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.wire.internal import Tick

if TYPE_CHECKING:
    import soxr

TICK_S = 1.0
"""Shortest time in seconds between two ticks when no window was completed."""
MAX_WAIT_S = 0.1
"""Longest time in seconds that samples of a device wait before they are fed, when they complete no
window: they are lost when the process is killed."""

NO_SAMPLES: Samples = np.zeros(0, np.float32)


@dataclasses.dataclass(frozen=True)
class StreamFormat:
    """Sample rate and window grid of a stream.

    Attributes:
        rate: sample rate in Hz.
        grid: window and hop, in samples at that rate.
    """

    rate: int
    grid: WindowGrid

    @property
    def hop_s(self) -> float:
        """Seconds from the start of a window to the start of the next one."""
        return self.grid.hop / self.rate


class ResumeMismatchError(Exception):
    """The samples of a resumed source differ from those that the ring holds."""


class RingFeeder:
    """Feeds the ring of one stream. Not thread-safe: only the capture loop uses it.

    Args:
        stream: name of the stream.
        ring: attached writer; feeding continues at its write index.
        source_rate: sample rate of the blocks in Hz.
        send: takes every tick.
        channel: channel to take, or channels to mix; None mixes all.
        mix: what to do while the channels cancel each other, see `ChannelMix`.
        skip: samples at the stream's rate to discard first, because an earlier process has
            written them.
        written: the last of the samples to skip, as the ring holds them; None: do not compare.

    Attributes:
        ended: the source has ended; the ticks say so.
        level_db: RMS of the newest block in dBFS; None before the first.
        mix: makes one channel of those of the source.
        drift: drift of the source's clock as figures of its quality; empty: not known yet.
        quality: measures what is written to the ring.
        muted_since: CLOCK_MONOTONIC since when no sample is written; None: samples are written.
        muted_samples: samples declared missing because of that, by this process.
    """

    def __init__(
        self,
        stream: str,
        ring: RingWriter,
        source_rate: int,
        stream_format: StreamFormat,
        send: Callable[[Tick], None],
        *,
        channel: Channels = None,
        mix: str = "mean",
        skip: int = 0,
        written: Samples | None = None,
    ) -> None:
        self.stream = stream
        self.ring = ring
        self.ended = False
        self.level_db: float | None = None
        self.skip = skip
        self._expected = written
        self._skipped: Samples = NO_SAMPLES
        self._format = stream_format
        self._send = send
        self._channel, self._mode = channel, mix
        self._source_rate = source_rate
        self._resampler = self._new_resampler()
        self.mix = ChannelMix(source_rate, channel, mix)
        self.drift: dict[str, float] = {}
        self.quality = QualityMeter(stream_format.rate)
        self.muted_since: float | None = None
        self.muted_samples = 0
        # Until the source gives its first anchor, the one of the process before holds.
        self._unix: float | None = ring.anchor[2] or None
        self._last_tick = 0.0

    def _new_resampler(self) -> soxr.ResampleStream | None:
        if self._source_rate == self._format.rate:
            return None
        import soxr

        return soxr.ResampleStream(self._source_rate, self._format.rate, 1, dtype="float32")

    @property
    def position(self) -> int:
        """Absolute index one past the last sample in the ring."""
        return self.ring.index

    def anchor(self, index: int, monotonic: float, unix: float | None) -> None:
        """Tie a sample index to CLOCK_MONOTONIC and unix time, in seconds.

        Args:
            unix: None for a source without a time of day, such as a file at full speed.
        """
        self._unix = unix
        self.ring.set_anchor(index, monotonic, 0.0 if unix is None else unix)

    def feed(self, block: Samples) -> None:
        """Write the next block of the source, (frames, channels) at the source's rate.

        While muted, the samples of the block are not read and are declared missing.

        Raises:
            ResumeMismatchError: the skipped samples differ from `written`; none was written.
        """
        # Samples to skip are in the ring already: they were heard before the mute.
        if self.muted_since is not None and not self.skip:
            samples: Samples = np.zeros(len(block), np.float32)
        else:
            samples = self.mix.mono(block)
            if len(samples):
                self.level_db = rms_dbfs(samples)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples))
        self._write(quantize(samples))
        self.tick()

    def frames_until_due(self, longest_s: float = MAX_WAIT_S) -> int:
        """Frames of the source to collect before feeding them is worth a wake-up.

        They complete the next window, or last `longest_s`.
        """
        grid = self._format.grid
        missing = grid.end(grid.complete(self.position)) - self.position
        frames = -(-missing * self._source_rate // self._format.rate)
        return min(frames, int(longest_s * self._source_rate))

    def flush(self) -> None:
        """Write the samples in the resampler; the next block does not continue the last one."""
        if self._resampler is not None:
            self._write(quantize(self._resampler.resample_chunk(NO_SAMPLES, last=True)))
            self._resampler = self._new_resampler()

    def gap(self, samples: int) -> None:
        """Write `samples` missing samples, at the stream's rate."""
        if samples > 0:
            self._write_gap(samples)
            if self.muted_since is None:  # a mute is no fault of the source
                self.quality.gap()
            self.tick(now=True)

    def mute(self, now: float, *, muted: bool) -> None:
        """From now on declare samples missing instead of writing them, or write them again.

        Args:
            now: CLOCK_MONOTONIC.
        """
        if muted == (self.muted_since is not None):
            return
        self.muted_since = now if muted else None
        self.level_db = None
        self.mix = ChannelMix(self._source_rate, self._channel, self._mode)

    def finish(self) -> None:
        """End the stream: write the samples in the resampler and announce the end."""
        self.flush()
        self.ended = True
        self.tick(now=True)

    def tick(self, *, now: bool = False) -> None:
        """Announce the position if a tick is due, or at once."""
        monotonic = time.monotonic()
        if now or monotonic - self._last_tick >= TICK_S:
            self._last_tick = monotonic
            self._send(self._tick())

    def _write(self, samples: Samples) -> None:
        if self.skip:
            skipped = min(self.skip, len(samples))
            self.skip -= skipped
            self._compare(samples[:skipped])
            samples = samples[skipped:]
        if not len(samples):
            return
        before = self._format.grid.complete(self.position)
        if self.muted_since is not None:
            self._write_gap(len(samples))
        else:
            self.ring.write(samples)
            self.quality.add(samples)
        if self._format.grid.complete(self.position) > before:
            self.tick(now=True)

    def _write_gap(self, samples: int) -> None:
        self.ring.gap(samples)
        if self.muted_since is not None:
            self.muted_samples += samples

    def _compare(self, skipped: Samples) -> None:
        if self._expected is None:
            return
        wanted = len(self._expected)
        self._skipped = np.concatenate([self._skipped, skipped])[-wanted:]
        if not self.skip:
            if not np.array_equal(self._skipped, self._expected):
                raise ResumeMismatchError
            self._expected, self._skipped = None, NO_SAMPLES

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
