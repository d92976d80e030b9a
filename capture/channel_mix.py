"""Mixes the channels of a source to one, and mends a mix whose channels cancel each other.

One side of a stereo source is inverted more often than one expects: a wire is swapped, or a driver
turns it. Its mean is silence, although sound arrives.
"""

from __future__ import annotations

import time

import numpy as np

from speech_emotion.capture.samples import Channels, Samples, to_mono

MEASURE_S = 1.0
"""Seconds of sound over which the channels are compared."""
ACTIVE_POWER = 1e-6
"""Mean power per channel (-60 dBFS) below which there is no sound to judge by."""
CANCELLED_POWER = 0.01
"""Share of the channels' power in the mix (-20 dB) below which they cancel each other."""
REMEDY = "take a single one with channel = 0, or swap the wires of one"


class ChannelMix:
    """The mean of some channels, with a sign for each.

    The channels are compared at whole seconds of frames, so that the samples do not depend on the
    size of the blocks.

    Args:
        rate: sample rate of the source in Hz.
        channel: channel to take, or channels to mix; None: all.
        mode: what to do while the channels cancel each other: `mean` (report it), `flip` (invert
            those that are inverted against the loudest one) or `best` (take the loudest one).

    Attributes:
        cancelled: the channels cancel each other in the present mix.
        since: CLOCK_MONOTONIC at which `cancelled` last changed.
    """

    def __init__(self, rate: int, channel: Channels = None, mode: str = "mean") -> None:
        self.cancelled = False
        self.since = time.monotonic()
        self._channel, self._mode = channel, mode
        self._limit = round(MEASURE_S * rate)
        self._frames = 0
        self._products: np.ndarray[tuple[int, int], np.dtype[np.float64]] | None = None
        self._weights: np.ndarray[tuple[int], np.dtype[np.float32]] | None = None

    @property
    def reason(self) -> str | None:
        """A fault in words, with its remedy, or how it is mended; None without one."""
        if self.cancelled:
            return f"the channels cancel each other in the mix: one is inverted; {REMEDY}"
        if self._weights is None:
            return None
        numbers = self._numbers(len(self._weights))
        if self._mode == "best":
            loudest = numbers[int(np.argmax(self._weights))]
            return f"the channels cancel each other: channel {loudest} alone is used"
        turned = [str(n) for n, weight in zip(numbers, self._weights, strict=True) if weight < 0]
        return f"channel {', '.join(turned)} is inverted, and is turned before the mix"

    def mono(self, block: Samples) -> Samples:
        """Reduce a block (frames, channels) to (frames,)."""
        if isinstance(self._channel, int):
            return to_mono(block, self._channel)
        if self._channel is not None:
            block = block[:, list(self._channel)]
        if block.shape[1] < 2 or not len(block):
            return to_mono(block, None)
        parts: list[Samples] = []
        while len(block):
            part = block[: self._limit - self._frames]
            parts.append(self._mixed(part))
            self._measure(part)
            block = block[len(part) :]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _mixed(self, block: Samples) -> Samples:
        if self._weights is None:
            return to_mono(block, None)
        if self._mode == "best":
            return to_mono(block, int(np.argmax(self._weights)))
        return to_mono(block * self._weights, None)

    def _measure(self, block: Samples) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            products = (block.T @ block).astype(np.float64)
        if not np.isfinite(products).all():
            return
        self._frames += len(block)
        self._products = products if self._products is None else self._products + products
        if self._frames >= self._limit:
            self._judge(self._products)
            self._frames, self._products = 0, None

    def _judge(self, products: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
        channels = len(products)
        power = float(np.trace(products)) / channels
        if power / self._limit < ACTIVE_POWER:
            return
        least = CANCELLED_POWER * power * channels**2
        if float(np.sum(products)) >= least:  # the plain mean is right
            self._weights, cancelled = None, False
        elif self._mode == "mean":
            cancelled = True
        else:
            loudest = int(np.argmax(np.diag(products)))
            if self._mode == "best":
                weights = np.arange(channels) == loudest
                cancelled = False
            else:
                weights = np.where(products[loudest] < 0.0, -1, 1)
                cancelled = float(weights @ products @ weights) < least
            self._weights = None if cancelled else weights.astype(np.float32)
        if cancelled != self.cancelled:
            self.cancelled, self.since = cancelled, time.monotonic()

    def _numbers(self, channels: int) -> tuple[int, ...]:
        return self._channel if isinstance(self._channel, tuple) else tuple(range(channels))
