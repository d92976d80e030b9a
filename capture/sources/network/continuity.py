"""Finds missing samples by the time stamps of a sender; judges pace, speed, supply of a source."""

from __future__ import annotations

from collections import deque

SHARE = 0.5
"""Share of a packet by which a time stamp may deviate: less is jitter, a lost packet is more."""
LEAST_S, MOST_S = 0.002, 0.04
"""Limits of that deviation in seconds."""
FOLLOW = 1 / 64
"""Share of a small deviation that is taken over with each packet: the clock that makes the time
stamps and the one that makes the samples differ by some parts per million."""


class Continuity:
    """Compares the time stamps of packets with the number of frames.

    Args:
        rate: sample rate in Hz.

    Attributes:
        refused: time stamps that jumped back, or further than time has passed.
    """

    def __init__(self, rate: int) -> None:
        self.refused = 0
        self._rate = rate
        self._offset: float | None = None

    def missing(self, index: int, frames: int, counted: int, most: int) -> int:
        """Frames that are missing before a packet.

        Args:
            index: time stamp of its first frame, in frames.
            frames: frames of the packet.
            counted: frames before it, those that were missing included.
            most: frames that can be missing at most, by the clock.
        """
        if self._offset is None:
            self._offset = index - counted
            return 0
        jump = index - counted - self._offset
        tolerance = min(max(SHARE * frames, LEAST_S * self._rate), MOST_S * self._rate)
        if abs(jump) < tolerance:
            self._offset += FOLLOW * jump
            return 0
        if 0 < jump <= most:
            return round(jump)
        self._offset += jump  # the sender has set its clock
        self.refused += 1
        return 0


class Pace:
    """Limits how fast a source is read: its server waits, the ring's writer never does.

    Args:
        rate: sample rate in Hz.
        speed: highest speed in the long run; 1.0 is real time.
        ahead_s: seconds of sound that may be read at once, such as the burst of a server when a
            client connects.
        full: whether they may be read at the start.
    """

    def __init__(self, rate: int, speed: float, ahead_s: float, now: float, *, full: bool) -> None:
        self._per_s = rate * speed
        self._depth = rate * ahead_s
        self._left = self._depth if full else 0.0
        self._then = now

    def allows(self, frames: int, now: float) -> bool:
        """Whether `frames` more frames may be fed at `now`."""
        self._left = min(self._left + (now - self._then) * self._per_s, self._depth)
        self._then = now
        return self._left >= min(frames, self._depth)

    def take(self, frames: int) -> None:
        """Count frames that were fed."""
        self._left -= frames


class Supply:
    """Notices that a server of segments sends no more, while what it sent before is still heard.

    A segment arrives at once, and the next one as many seconds later as it is long.

    Attributes:
        fault: what is wrong, as a phrase; None: nothing.
    """

    QUIET_S = 2.5
    """Shortest time in seconds without a byte that is a fault."""
    UNKNOWN_S = 10.0
    """The same, before the length of a segment is known."""
    BURST_S = 0.3
    """A segment may arrive in parts with pauses of so many seconds."""
    TOLERANCE = 1.5
    """Largest time between two segments as a multiple of the usual one: it depends on when the
    server is asked."""
    LATEST = 5

    def __init__(self, now: float) -> None:
        self.fault: str | None = None
        self._received = 0
        self._newest = now
        self._pauses: deque[float] = deque(maxlen=self.LATEST)

    def add(self, received: int, now: float) -> None:
        """Judge the number of bytes that have arrived until `now`."""
        pause = now - self._newest
        if received > self._received:
            if self._received and pause > self.BURST_S:
                self._pauses.append(pause)
            self._received, self._newest = received, now
            self.fault = None
        elif pause > self._limit_s:
            self.fault = "the server sends nothing more; what it sent before is still heard"

    @property
    def _limit_s(self) -> float:
        if len(self._pauses) < 2:
            return self.UNKNOWN_S
        return max(self.QUIET_S, self.TOLERANCE * max(self._pauses))


class Speed:
    """Measures how many seconds of sound a source gives per second.

    Args:
        rate: sample rate in Hz.

    Attributes:
        fault: what is wrong with it, as a phrase; None: nothing.
    """

    SPAN_S = 10.0
    """Seconds of a measurement. A network delays sound by up to some seconds."""
    TOLERANCE = 0.05
    CONFIRMED = 2
    """Measurements in a row with the same deviation: a delay is followed by its recovery."""

    def __init__(self, rate: int, now: float) -> None:
        self.fault: str | None = None
        self._rate = rate
        self._began = now
        self._frames = 0
        self._slow = self._fast = 0
        self._limited = False

    def add(self, frames: int, now: float, *, limited: bool) -> None:
        """Count frames, the missing ones included.

        Args:
            limited: whether the source would have given more.
        """
        self._frames += frames
        self._limited |= limited
        span = now - self._began
        if span < self.SPAN_S:
            return
        speed = self._frames / self._rate / span
        self._slow = self._slow + 1 if speed < 1.0 - self.TOLERANCE else 0
        self._fast = self._fast + 1 if self._limited or speed > 1.0 + self.TOLERANCE else 0
        self._began, self._frames, self._limited = now, 0, False
        self.fault = None
        if self._slow >= self.CONFIRMED:
            self.fault = (
                f"slower than real time: {speed:.2f} s of sound per second; "
                "is the network or the sender too slow?"
            )
        elif self._fast >= self.CONFIRMED:
            self.fault = (
                f"faster than real time ({speed:.2f} s of sound per second): "
                "is it a recording, or is its sample rate wrong?"
            )
