"""Detects channels that cancel each other in the mix: one side of a stereo source is inverted."""

from __future__ import annotations

import time

import numpy as np

from speech_emotion.capture.samples import Samples

MEASURE_S = 1.0
"""Seconds of sound over which the levels are compared."""
ACTIVE_POWER = 1e-6
"""Mean power per channel (-60 dBFS) below which there is no sound to judge by."""
CANCELLED_POWER = 0.01
"""Share of the channels' power in the mix (-20 dB) below which they cancel each other."""


class MixMonitor:
    """Compares the power of the mix with the power of the channels.

    Args:
        rate: sample rate of the source in Hz.

    Attributes:
        cancelled: the channels cancel each other.
        since: CLOCK_MONOTONIC at which `cancelled` last changed.
    """

    def __init__(self, rate: int) -> None:
        self.cancelled = False
        self.since = time.monotonic()
        self._limit = round(MEASURE_S * rate)
        self._frames = 0
        self._channels = self._mix = 0.0

    def add(self, block: Samples, mono: Samples) -> None:
        """Measure a block (frames, channels) and its mix (frames,)."""
        if block.shape[1] < 2 or not len(block):
            return
        power = float(np.vdot(block, block)) / block.shape[1]
        if not np.isfinite(power):
            return
        self._frames += len(block)
        self._channels += power
        self._mix += float(np.vdot(mono, mono))
        if self._frames >= self._limit:
            self._judge()

    @property
    def reason(self) -> str:
        """The fault in words, with its remedy."""
        return (
            "the channels cancel each other in the mix: one is inverted; "
            "take a single one with channel = 0, or swap the wires of one"
        )

    def _judge(self) -> None:
        if self._channels / self._frames >= ACTIVE_POWER:
            cancelled = self._mix < CANCELLED_POWER * self._channels
            if cancelled != self.cancelled:
                self.cancelled, self.since = cancelled, time.monotonic()
        self._frames = 0
        self._channels = self._mix = 0.0
