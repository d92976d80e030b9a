"""Blocks of samples: mixing to one channel, and the resolution that a ring holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
Channels = int | tuple[int, ...] | None
"""Channel to take, or channels to mix; None: all."""

LARGEST = np.float32(1e6)
"""Largest magnitude of a sample. Full scale is 1.0; float files may hold anything."""
FULL_SCALE = 1 << 23
"""Steps of a 24-bit sample from 0 to 1."""


def channels_needed(channel: Channels) -> int:
    """Channels that a source must have."""
    chosen = (channel,) if isinstance(channel, int) else channel or (0,)
    return max(chosen) + 1


def to_mono(block: Samples, channel: Channels) -> Samples:
    """Reduce a block (frames, channels) to one channel, or to the mean of some or all: (frames,).

    Channels are added one after the other, so that the bits of a sample do not depend on the
    size of the block. NaN (possible in float files) becomes silence, infinity full scale.
    Larger values than `LARGEST` are clipped, so that later arithmetic does not overflow.
    """
    if isinstance(channel, int):
        mono = block[:, channel]
    else:
        if channel is not None:
            block = block[:, list(channel)]
        mono = block[:, 0]
        if block.shape[1] > 1:
            mono = mono.copy()
            with np.errstate(over="ignore", invalid="ignore"):
                for other in range(1, block.shape[1]):
                    mono += block[:, other]
                mono /= np.float32(block.shape[1])
    if len(mono) and not float(np.max(np.abs(mono))) <= LARGEST:  # NaN is not, either
        mono = np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0)
        mono = np.clip(mono, -LARGEST, LARGEST)
    return mono


def quantize(samples: Samples) -> Samples:
    """Round samples to 24 bits, the resolution that a FLAC file holds exactly.

    The ring holds nothing finer, so that a recording of it replays bit for bit. 16-bit and
    24-bit sound is not changed.
    """
    steps: Samples = np.rint(samples * np.float32(FULL_SCALE))
    np.clip(steps, -FULL_SCALE, FULL_SCALE - 1, out=steps)
    steps /= np.float32(FULL_SCALE)
    return steps
