"""A whole recording at once, with the samples that the running stage would write."""

from __future__ import annotations

import numpy as np

from capture.sources import FileSource, Samples, to_mono

BLOCK = 1 << 16


def read_recording(path: str, rate: int, channel: int | None = None) -> Samples:
    """The samples of a sound file at `rate` Hz, float32, shape (samples,).

    Args:
        channel: the one to take; None mixes all down.

    Raises:
        UserError: the file is missing, empty, damaged, no sound file, or has no such channel.
    """
    source = FileSource(path)
    source.check_channel(channel)
    blocks = []
    while len(block := source.read(BLOCK)):
        blocks.append(to_mono(block, channel))
    source.close()
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if source.rate != rate:
        import soxr

        resampler = soxr.ResampleStream(source.rate, rate, 1, dtype="float32")
        samples = resampler.resample_chunk(samples, last=True)
    return samples
