"""The sound file of `python -m capture --record`."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion.capture.recording.wav_writer import WavWriter
from speech_emotion.common.errors import UserError


def test_samples_of_16_bits_are_written_exactly(tmp_path: Path) -> None:
    steps = np.arange(-32768, 32768, dtype=np.int16).reshape(-1, 2)
    writer = WavWriter(str(tmp_path / "out.wav"), 16000, 2)
    writer.write(steps.astype(np.float32) / np.float32(32768.0))
    writer.close()
    assert np.array_equal(soundfile.read(tmp_path / "out.wav", dtype="int16")[0], steps)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    writer = WavWriter(str(tmp_path / "out.wav"), 16000, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"out\.wav: cannot be written"):
            writer.write(np.zeros((1_600_000, 1), np.float32))
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
