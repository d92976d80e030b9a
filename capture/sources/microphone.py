"""A microphone: one device, its sample clock, and the rings of the streams that it feeds."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from speech_emotion.capture.read_ahead import ReadAhead
from speech_emotion.capture.recording.wav_writer import WavWriter
from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.capture.samples import Samples, channels_needed
from speech_emotion.capture.sources.clock import BEGIN_S, MutedTime, SampleClock
from speech_emotion.capture.sources.monitor import REOPEN_AGAIN_S, REOPEN_S, SourceMonitor
from speech_emotion.capture.sources.portaudio import (
    MIX_CHANNELS,
    Device,
    Microphone,
    find_device,
    refresh_devices,
)
from speech_emotion.capture.sources.pulseaudio import SourceFollower
from speech_emotion.capture.stream import POLL_S, SourceOptions, StreamJob
from speech_emotion.common.errors import EXIT_DEVICE, DeviceError, UserError
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import Condition, SourceState
from speech_emotion.common.wire import internal

log = logging.getLogger("capture")

CLOSE_LIMIT_S = 2.0
"""Closing a lost device may hang; after this many seconds the process exits without closing it."""


class LiveDevice:
    """One open device, its sample clock, and the feeders of its streams.

    Args:
        send: takes every tick.
        muted: whether no sound may be taken yet.

    Attributes:
        microphone: the open device; None while it is closed because of a mute.

    Raises:
        UserError: the device is absent or lacks a channel.
        DeviceError: the device is absent and is to be waited for.
    """

    def __init__(
        self,
        jobs: list[StreamJob],
        stream_format: StreamFormat,
        send: Callable[[internal.Tick], None],
        options: SourceOptions,
        *,
        muted: bool = False,
    ) -> None:
        self._names = ", ".join(job.name for job in jobs)
        rings = [RingWriter.attach(job.ring) for job in jobs]
        restarted = any(ring.anchor[1] for ring in rings)
        # A device that was open in an earlier process of this run is no mistake of the user.
        wait = options.wait_for_device or restarted
        self._jobs, self._options = jobs, options
        self.microphone: Microphone | None = None
        self._faults = Counter[str]()
        try:
            self.device, channels = _choose(jobs)
            if not (muted and options.close_muted):
                self.microphone = _open(self.device, channels, options)
        except UserError as error:
            raise DeviceError(f"waiting: {error}") if wait else error from None
        log.info("%s %s", "muted;" if muted else "recording from", self.device)
        self.ended = False
        self._reopen_after = REOPEN_AGAIN_S if _was_silent(rings[0]) else REOPEN_S
        rate = self.device.rate
        self._channels = channels
        self.feeders = [
            RingFeeder(job.name, ring, rate, stream_format, send, channel=job.channel, mix=job.mix)
            for job, ring in zip(jobs, rings, strict=True)
        ]
        self._block_s = options.device_block(rate) / rate
        self.monitor = SourceMonitor(time.monotonic(), rate, self._block_s, restarted=restarted)
        self._follower = SourceFollower() if self.device.served else None
        self._rate = rate
        self._stream_rate = stream_format.rate
        self._clock = SampleClock(self.feeders, rate, stream_format.rate)
        self._writer = WavWriter(options.record, rate, channels) if options.record else None
        self._frame_limit = None if options.seconds is None else round(options.seconds * rate)
        self._muted_time: MutedTime | None = None
        self.mute(time.monotonic(), muted=muted)

    @property
    def name(self) -> str:
        """Name of the source that is recorded now, as far as it is known."""
        source = self._follower.now if self._follower is not None else None
        return source or self.device.label

    @property
    def counters(self) -> Counter[str]:
        """Faults of the device by name, counted since this process started."""
        return self._faults + _faults(self.microphone)

    def turn(self, now: float) -> None:
        """Feed the blocks that have arrived and check the device.

        Raises:
            DeviceError: the device is lost, or is to be opened again.
        """
        if self.ended:
            return
        if self._muted_time is not None:
            if self.microphone is not None:
                self.microphone.discard()
            self._muted_time.turn(now)
            return
        assert self.microphone is not None
        if not self._clock.begun and not self._begin():
            self._check(now)
            return
        for block in self.microphone.blocks():
            frames = len(block.samples)
            overrun = self._overrun(block.time, frames + block.lost) if block.xrun else 0
            if lost := block.lost + overrun:
                log.warning("%d frames lost: the process did not read the device in time", lost)
                self._clock.missing(lost)
            fed = self._clock.frames
            if self._frame_limit is not None and fed + frames >= self._frame_limit:
                self._feed(block.samples[: self._frame_limit - fed], block.time)
                self.finish()
                return
            self._feed(block.samples, block.time)
        self.microphone.wake_at(min(feeder.frames_until_due() for feeder in self.feeders))
        self._check(now)

    def finish(self) -> None:
        """End all streams and close the device."""
        if not self.ended:
            self.ended = True
            for feeder in self.feeders:
                feeder.finish()
            if self._writer is not None:
                self._writer.close()
            self._stop_following()
            self._close_microphone()

    # Muted ------------------------------------------------------------------------------

    def mute(self, now: float, *, muted: bool) -> None:
        """Take no sound from `now` on, or take it again; may be repeated.

        Raises:
            DeviceError: the device cannot be opened again.
        """
        if muted == (self._muted_time is not None) or self.ended:
            return
        if muted:
            # The first block after the mute holds samples from before its arrival.
            lag_s = self._block_s + POLL_S
            self._muted_time = MutedTime(self.feeders, self._stream_rate, now, lag_s)
            if self._options.close_muted:
                self._close_microphone()
            return
        # The feeders stay muted until the first block has a place on the clock, see `_begin`.
        if self.microphone is None:
            self.microphone = self._open_again()
        self.microphone.discard()
        self._muted_time = None
        self._clock = SampleClock(self.feeders, self._rate, self._stream_rate)
        self.monitor = SourceMonitor(now, self._rate, self._block_s)

    def _open_again(self) -> Microphone:
        refresh_devices()  # it may have been plugged in elsewhere while it was closed
        try:
            device, channels = _choose(self._jobs)
            if (device.rate, channels) != (self._rate, self._channels):
                raise DeviceError(f"{device} replaced {self.device}: opening it anew")
            return _open(device, channels, self._options)
        except UserError as error:
            raise DeviceError(f"waiting: {error}") from None

    def _close_microphone(self) -> None:
        if self.microphone is not None:
            self._faults += _faults(self.microphone)
            timer = self._limit_closing()
            self.microphone.close()
            timer.cancel()
            self.microphone = None

    # Sound ------------------------------------------------------------------------------

    def _feed(self, samples: Samples, arrived: float) -> None:
        self.monitor.add_block(arrived, samples)
        if self._writer is not None:
            self._writer.write(samples)
        for feeder in self.feeders:
            feeder.feed(samples)
        self._clock.advance(len(samples), arrived)

    def _begin(self) -> bool:
        """Declare the gap before the first sample of a restarted source; False: wait for blocks."""
        assert self.microphone is not None
        pending = self.microphone.pending()
        frames = list(itertools.accumulate(n for n, _ in pending))
        needed = round(BEGIN_S * self._rate) if self._clock.returned else 1
        if not frames or frames[-1] < needed:
            self.microphone.wake_at(needed)
            return False
        self._clock.begin(
            min(arrived - n / self._rate for n, (_, arrived) in zip(frames, pending, strict=True))
        )
        return True

    def _overrun(self, arrived: float, frames: int) -> int:
        """Frames that PortAudio lost before a block of `frames`, by the clock."""
        missing = round(self._clock.frames_at(arrived)) - (self._clock.frames + frames)
        return missing if missing > frames else 0

    def _check(self, now: float) -> None:
        assert self.microphone is not None
        before = self.monitor.state
        self.monitor.check(now, active=self.microphone.active)
        follower = self._follower
        if follower is not None and follower.now is not None and follower.now != follower.first:
            self.monitor.source_changed(now, str(follower.first), follower.now)
        state = self.monitor.state
        if state is not before:
            level = logging.INFO if state is SourceState.LIVE else logging.WARNING
            cause = self.monitor.reason or "samples arrive"
            log.log(level, "%s: source is now %s (%s)", self._names, state.value, cause)
        silent_s = self.monitor.silent_for(now)
        if silent_s > self._reopen_after:
            self._stop_following()
            self._limit_closing()
            raise DeviceError(f"digital silence for {silent_s:.0f} s: opening the device again")
        if state is SourceState.LOST:
            # PortAudio reads its list of devices once per process: a new process must open it.
            self._stop_following()
            self._limit_closing()
            raise DeviceError(f"the microphone is lost: {self.monitor.reason}")

    def _stop_following(self) -> None:
        if self._follower is not None:
            self._follower.close()

    def _limit_closing(self) -> threading.Timer:
        """Start the timer that ends the process if closing the device hangs."""
        timer = threading.Timer(CLOSE_LIMIT_S, lambda: os._exit(EXIT_DEVICE))
        timer.daemon = True
        timer.start()
        return timer


def _choose(jobs: list[StreamJob]) -> tuple[Device, int]:
    """The device of the jobs, and how many of its channels they need."""
    device = find_device(jobs[0].source.partition(":")[2])
    wanted = [channels_needed(job.channel) for job in jobs if job.channel is not None]
    channels = max(wanted) if wanted else min(MIX_CHANNELS, device.channels)
    if channels > device.channels:
        raise UserError(f"{device} has no channel {channels - 1}")
    return device, channels


def _open(device: Device, channels: int, options: SourceOptions) -> Microphone:
    frames = options.device_block(device.rate)
    return Microphone(device, channels=channels, block_frames=frames, latency=options.latency)


def _faults(microphone: Microphone | None) -> Counter[str]:
    if microphone is None:
        return Counter()
    return Counter(
        {"capture_xruns": microphone.xruns, "capture_frames_dropped": microphone.dropped}
    )


def _was_silent(ring: RingWriter) -> bool:
    """Whether the last half ring that an earlier process wrote is digital silence."""
    start = ring.index - min(ring.index, ring.capacity // 2)
    # Missing samples are zeros too; they say nothing about the source.
    if start == ring.index or any(end > start for _, end in ring.gaps()):
        return False
    samples = np.empty(ring.index - start, np.float32)
    with RingReader.attach(ring.name) as reader:
        return reader.read(start, samples, ring.index) and not samples.any()


class LiveStream:
    """One of the streams that a device feeds."""

    def __init__(self, job: StreamJob, device: LiveDevice, feeder: RingFeeder) -> None:
        self.job = job
        self.feeder = feeder
        self.ahead = ReadAhead(0, 0, recorder=False, waits=False)  # a device never waits
        self.error: UserError | None = None
        self._device = device

    @property
    def counters(self) -> dict[str, int]:
        return dict(self._device.counters)

    @property
    def wakeup(self) -> int | None:
        microphone = self._device.microphone
        return None if self._device.ended or microphone is None else microphone.wakeup

    @property
    def condition(self) -> Condition:
        monitor, device = self._device.monitor, self._device.name
        if self.feeder.ended:
            return Condition(SourceState.ENDED, device=device)
        return Condition(monitor.state, monitor.reason, monitor.since, device, monitor.clipped)

    def due(self, now: float) -> float:  # noqa: ARG002
        return POLL_S

    def turn(self, now: float) -> None:
        self._device.turn(now)

    def mute(self, now: float, *, muted: bool) -> None:
        self._device.mute(now, muted=muted)

    def finish(self) -> None:
        self._device.finish()
