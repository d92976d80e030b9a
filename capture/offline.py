"""A whole recording in memory, with the samples that the capture stage would write."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from speech_emotion.capture.recording.reader import RecordingFile, open_recording
from speech_emotion.capture.samples import Samples, quantize, to_mono
from speech_emotion.capture.sound_file import SoundFile
from speech_emotion.common.errors import UserError

BLOCK_FRAMES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Recording:
    """All samples of a stream.

    Attributes:
        samples: float32, (samples,), at the stream's rate.
        gaps: spans [a, b) of missing samples, which are zeros in `samples`.
        damage: error that ended the recording; report it after the results of the samples before
            it. None for a complete recording.
    """

    samples: Samples
    gaps: list[list[int]]
    damage: UserError | None = None


def read_recording(path: str, rate: int, channel: int | None = None) -> Recording:
    """Read a sound file, or a folder that `--record` has written, at `rate` Hz.

    Args:
        channel: channel to take, from 0; None mixes all.

    Raises:
        UserError: the file is missing, empty, without a readable sample, no sound file, or lacks
            the channel; a folder is no recording or has another rate.
    """
    file: SoundFile | RecordingFile
    gaps: list[list[int]] = []
    if Path(path).is_dir():
        recording = open_recording(Path(path), rate)
        file, gaps = RecordingFile(recording), recording.gaps
    else:
        file = SoundFile(path)
    file.check_channel(channel)
    blocks: list[Samples] = []
    damage: UserError | None = None
    try:
        while len(block := file.read(BLOCK_FRAMES)):
            blocks.append(to_mono(block, channel))
    except UserError as error:
        damage = error
    file.close()
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if file.rate != rate:
        import soxr

        resampler = soxr.ResampleStream(file.rate, rate, 1, dtype="float32")
        samples = resampler.resample_chunk(samples, last=True)
    if not len(samples):
        raise damage or UserError(f"{path}: holds no samples")
    return Recording(quantize(samples), gaps, damage)
