"""A whole recording at once, with the samples that the running stage would write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from speech_emotion.capture.recording.reader import open_recording
from speech_emotion.capture.sources.sound_file import FileSource, Samples, quantize, to_mono

BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class Recording:
    """Sound of a stream from its beginning.

    Attributes:
        samples: float32, (samples,), at the stream's rate.
        gaps: spans [a, b) of samples that were missing, zeros here.
    """

    samples: Samples
    gaps: list[list[int]]


def read_recording(path: str, rate: int, channel: int | None = None) -> Recording:
    """A sound file, or a folder that `--record` has written, at `rate` Hz.

    Args:
        channel: the one to take; None mixes all down.

    Raises:
        UserError: it is missing, empty, damaged, no sound, of another rate (a folder), or has
            no such channel.
    """
    gaps: list[list[int]] = []
    if Path(path).is_dir():
        tape = open_recording(Path(path), rate)
        path, gaps = str(tape.audio), tape.gaps
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
    return Recording(quantize(samples), gaps)
