"""A microphone on its way into the rings of the streams that it feeds."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from speech_emotion.capture.recording.wav_writer import WavWriter
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.sources.monitor import REOPEN_AGAIN_S, REOPEN_S, SourceMonitor
from speech_emotion.capture.sources.portaudio import MIX_CHANNELS, Microphone, find_device
from speech_emotion.capture.sources.pulseaudio import SourceFollower
from speech_emotion.capture.sources.sound_file import Samples
from speech_emotion.common.errors import EXIT_DEVICE, DeviceError, UserError
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

if TYPE_CHECKING:
    from speech_emotion.capture.open_sources import SourceOptions
    from speech_emotion.capture.stream import StreamJob

log = logging.getLogger("capture")

ANCHOR_S = 1.0
"""The sample clock is tied to the monotonic one so often: devices drift."""
BEGIN_S = 0.3
"""Sound of a restarted source that is looked at to tell when it began."""
WEDGED_S = 2.0
"""Closing a lost device may hang; after so long the process ends without it."""


class LiveDevice:
    """One open device, its sample clock, and the feeders behind it.

    Raises:
        UserError: the device is not there or lacks a channel.
    """

    def __init__(
        self,
        jobs: list[StreamJob],
        form: StreamFormat,
        send: Callable[[internal.Tick], None],
        opening: SourceOptions,
    ) -> None:
        rings = [RingWriter.attach(job.ring) for job in jobs]
        again = any(ring.anchor[1] for ring in rings)
        # What was there once is waited for: it was no mistake.
        wait = opening.wait_for_device or again
        try:
            self.microphone = _open(jobs, opening)
        except UserError as error:
            raise DeviceError(f"waiting: {error}") if wait else error from None
        log.info("listening to %s", self.microphone.device)
        self.ended = False
        self._rings = rings
        self._reopen_after = REOPEN_AGAIN_S if _was_silent(rings[0]) else REOPEN_S
        rate, channels = self.microphone.rate, self.microphone.channels
        self.feeders = [
            RingFeeder(job.name, ring, rate, form, send, channel=job.channel)
            for job, ring in zip(jobs, self._rings, strict=True)
        ]
        block_s = self.microphone.block_frames / rate
        self.watch = SourceMonitor(time.monotonic(), rate, block_s, again=again)
        self._follower = SourceFollower() if self.microphone.device.served else None
        self._rate = rate
        self._form_rate = form.rate
        self._recorder = WavWriter(opening.record, rate, channels) if opening.record else None
        self._limit = None if opening.seconds is None else round(opening.seconds * rate)
        self._frames = 0
        self._base = [0] * len(self.feeders)
        self._anchored: tuple[int, float] | None = None
        self._best: tuple[float, int, float] | None = None
        self._anchor_due = 0.0

    def turn(self, now: float) -> None:
        """Feed what has come; look whether the device still lives."""
        if self.ended:
            return
        if self._anchored is None and not self._begin():
            self._check(now)
            return
        for block in self.microphone.blocks():
            frames = len(block.samples)
            missing = block.lost + (self._overrun(block.time, frames + block.lost) * block.xrun)
            if missing:
                self._missing(missing)
            if self._limit is not None and self._frames + frames >= self._limit:
                self._take(block.samples[: self._limit - self._frames], block.time)
                self.finish()
                return
            self._take(block.samples, block.time)
        self.microphone.wait_for(min(feeder.patience() for feeder in self.feeders))
        self._check(now)

    def finish(self) -> None:
        """The end, wanted by the user."""
        if not self.ended:
            self.ended = True
            for feeder in self.feeders:
                feeder.finish()
            if self._recorder is not None:
                self._recorder.close()
            timer = self._let_go()
            self.microphone.close()
            timer.cancel()

    def _take(self, samples: Samples, heard: float) -> None:
        self._frames += len(samples)
        self.watch.heard(heard, samples)
        if self._recorder is not None:
            self._recorder.write(samples)
        for feeder in self.feeders:
            feeder.feed(samples)
        self._anchor(heard)

    def _begin(self) -> bool:
        """Where time says a restarted source should be; a fresh one begins at its ring's index.

        On a busy machine the first block comes late, so a restarted source waits for a few and
        takes the promptest. False: it waits.
        """
        waiting = self.microphone.waiting()
        frames = list(itertools.accumulate(n for n, _ in waiting))
        again = any(ring.anchor[1] for ring in self._rings)
        enough = round(BEGIN_S * self._rate) if again else 1
        if not frames or frames[-1] < enough:
            self.microphone.wait_for(enough)
            return False
        began = min(heard - n / self._rate for n, (_, heard) in zip(frames, waiting, strict=True))
        for at, (feeder, ring) in enumerate(zip(self.feeders, self._rings, strict=True)):
            index, monotonic, _ = ring.anchor
            if monotonic:
                first = index + (began - monotonic) * self._form_rate
                feeder.gap(max(0, round(first) - ring.index))
            self._base[at] = ring.index
        self._anchored = (0, began)
        return True

    def _overrun(self, heard: float, frames: int) -> int:
        """Frames that PortAudio has lost before a block: what the clock says is missing."""
        assert self._anchored is not None
        then_frames, then = self._anchored
        expected = (heard - then) * self._rate
        short = round(expected - (self._frames + frames - then_frames))
        return short if short > frames else 0

    def _missing(self, frames: int) -> None:
        log.warning("%d frames were lost", frames)
        for at, feeder in enumerate(self.feeders):
            self._frames_to(at, feeder, frames)
        self._frames += frames

    def _frames_to(self, at: int, feeder: RingFeeder, frames: int) -> None:
        feeder.flush()
        target = self._base[at] + round((self._frames + frames) * self._form_rate / self._rate)
        feeder.gap(max(0, target - feeder.position))

    def _anchor(self, heard: float) -> None:
        """Tie the clocks by the least delayed block of the last second."""
        early = heard - self._frames / self._rate
        if self._best is None or early < self._best[0]:
            self._best = (early, self._frames, heard)
        if heard >= self._anchor_due:
            self._anchor_due = heard + ANCHOR_S
            _, frames, moment = self._best
            self._best = None
            self._anchored = (frames, moment)
            unix = time.time() - (time.monotonic() - moment)
            for base, feeder in zip(self._base, self.feeders, strict=True):
                index = base + round(frames * self._form_rate / self._rate)
                feeder.anchor(index, moment, unix)

    @property
    def name(self) -> str:
        """The device that is heard now, as well as we know."""
        source = self._follower.now if self._follower is not None else None
        return source or self.microphone.device.label

    def _check(self, now: float) -> None:
        before = self.watch.state
        self.watch.check(now, active=self.microphone.active)
        follower = self._follower
        if follower is not None and follower.now is not None and follower.now != follower.first:
            self.watch.moved(now, str(follower.first), follower.now)
        state = self.watch.state
        if state is not before:
            log.warning("source %s: %s", state.value, self.watch.reason)
        silent = self.watch.silent_for(now)
        if silent > self._reopen_after:
            self._let_go()
            raise DeviceError(f"digital silence for {silent:.0f} s, opening the device anew")
        if state is SourceState.LOST:
            # PortAudio's list of devices is frozen in this process: a fresh one must try.
            self._let_go()
            raise DeviceError(f"the microphone is lost: {self.watch.reason}")

    def _let_go(self) -> threading.Timer:
        # Closing a wedged device never returns, here or when the interpreter ends.
        timer = threading.Timer(WEDGED_S, lambda: os._exit(EXIT_DEVICE))
        timer.daemon = True
        timer.start()
        if self._follower is not None:
            self._follower.close()
        return timer


def _open(jobs: list[StreamJob], opening: SourceOptions) -> Microphone:
    """The device that the jobs share, with as many channels as they ask for."""
    device = find_device(jobs[0].source.partition(":")[2])
    asked = [job.channel for job in jobs if job.channel is not None]
    channels = max(asked) + 1 if asked else min(MIX_CHANNELS, device.channels)
    if channels > device.channels:
        raise UserError(f"{device} has no channel {channels - 1}")
    frames = opening.block_frames or max(1, round(opening.block_ms / 1000.0 * device.rate))
    return Microphone(device, channels=channels, block_frames=frames, latency=opening.latency)


def _was_silent(ring: RingWriter) -> bool:
    """Whether all that an earlier process of this source has heard of late is digital silence."""
    start = ring.index - min(ring.index, ring.capacity // 2)
    # What was missing is zeros as well, and says nothing of the source.
    if start == ring.index or any(end > start for _, end in ring.gaps()):
        return False
    samples = np.empty(ring.index - start, np.float32)
    with RingReader.attach(ring.name) as reader:
        return reader.read(start, samples, ring.index) and not samples.any()


class LiveStream:
    """One of the streams that a device feeds, as the service's loop sees it."""

    def __init__(self, job: StreamJob, device: LiveDevice, feeder: RingFeeder) -> None:
        self.job = job
        self.feeder = feeder
        self.accepted: internal.Accepted | None = None
        self.error: UserError | None = None
        self._device = device

    @property
    def counters(self) -> dict[str, int]:
        counters: Counter[str] = Counter()
        counters["capture_xruns"] = self._device.microphone.xruns
        counters["capture_frames_dropped"] = self._device.microphone.dropped
        return counters

    @property
    def wakeup(self) -> int | None:
        return None if self._device.ended else self._device.microphone.wakeup

    @property
    def condition(self) -> Condition:
        watch = self._device.watch
        if self.feeder.ended:
            return Condition(SourceState.ENDED, device=self._device.name)
        return Condition(watch.state, watch.reason, watch.since, self._device.name, watch.clipped)

    def due(self, now: float) -> float:  # noqa: ARG002
        return 0.1

    def turn(self, now: float) -> None:
        self._device.turn(now)

    def finish(self) -> None:
        self._device.finish()
