"""What the capture loop needs of a source: the job, the options, and the `Stream` protocol."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from speech_emotion.capture.ring_feeder import RingFeeder
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_state import Condition
from speech_emotion.common.wire import internal

POLL_S = 0.1
"""Longest time in seconds between two looks at a source that has nothing to do."""


@dataclasses.dataclass(frozen=True)
class StreamJob:
    """One stream of a capture process.

    Attributes:
        name: name of the stream.
        source: source as configured, such as `file:talk.flac`.
        ring: name of the shared-memory segment to write.
        channel: channel to take, from 0; None mixes all.
        features: endpoint of the features worker of this stream; empty: that of the process.
    """

    name: str
    source: str
    ring: str
    channel: int | None = None
    features: str = ""


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How to open the sources of a process.

    Attributes:
        realtime: read files and standard input in real time; else at full speed.
        block_frames: frames per block; None: `block_ms` for devices, and for files 20 ms in
            real time, 100 ms at full speed.
        block_ms: milliseconds per block of a device or a pipe.
        latency: PortAudio's latency: seconds, `low` or `high`.
        wait_for_device: wait for an absent device instead of failing.
        record: sound file to which a device's samples are written.
        seconds: time after which a device is closed; None: never.
        stdin: file descriptor that `stdin:…` reads.
        alone: no supervisor and perhaps no hub; do not wait for accepted results.
    """

    realtime: bool = True
    block_frames: int | None = None
    block_ms: float = 20.0
    latency: float | str = "high"
    wait_for_device: bool = False
    record: str | None = None
    seconds: float | None = None
    stdin: int = 0
    alone: bool = False

    def device_block(self, rate: int) -> int:
        """Frames per block of a device or a pipe of `rate` Hz."""
        return self.block_frames or max(1, round(self.block_ms / 1000.0 * rate))


class Stream(Protocol):
    """A source that feeds one ring.

    Attributes:
        accepted: newest message of the hub about accepted results; None before the first.
        error: damage that ended the source; the samples before it were fed.
    """

    job: StreamJob
    feeder: RingFeeder
    accepted: internal.Accepted | None
    error: UserError | None

    def due(self, now: float) -> float:
        """Seconds from `now` (CLOCK_MONOTONIC) until `turn` has something to do."""
        ...

    def turn(self, now: float) -> None:
        """Feed the samples that are due at `now` (CLOCK_MONOTONIC).

        Raises:
            DeviceError: the device is lost.
        """
        ...

    def finish(self) -> None:
        """End the source: write the last samples and announce the end."""
        ...

    @property
    def counters(self) -> dict[str, int]:
        """Faults of the source by name, counted since this process started."""
        ...

    @property
    def wakeup(self) -> int | None:
        """File descriptor that is readable when `turn` has something to do before `due`."""
        ...

    @property
    def condition(self) -> Condition:
        """State of the source, as `health` shows it."""
        ...
