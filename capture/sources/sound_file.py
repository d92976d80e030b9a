"""Where sound comes from. Every source gives float32 blocks of shape (frames, channels)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError

if TYPE_CHECKING:
    import soundfile

Samples = NDArray[np.float32]

SEEKABLE_EXACTLY = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")
"""Containers in which a seek lands on the very sample; elsewhere a resumed read starts over."""


class FileSource:
    """A sound file of any rate, channel count and format that libsndfile reads.

    Raises:
        UserError: the file is missing, empty, or no sound file.
    """

    def __init__(self, path: str) -> None:
        import soundfile

        self.path = Path(path)
        if self.path.is_dir():
            raise UserError(f"{path}: is a folder, not a sound file")
        if not self.path.exists():
            raise UserError(f"{path}: no such file")
        if self.path.stat().st_size == 0:
            raise UserError(f"{path}: is empty")
        try:
            self._file: soundfile.SoundFile = soundfile.SoundFile(path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise UserError(f"{path}: cannot be read as sound ({_reason(error)})") from None
        if self._file.frames == 0:
            raise UserError(f"{path}: holds no samples")
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        self._read = 0

    @property
    def seekable(self) -> bool:
        """Whether reading can begin at any frame and give the same samples."""
        lossless = self._file.subtype.startswith(("PCM", "FLOAT", "DOUBLE"))
        return self._file.format in SEEKABLE_EXACTLY and lossless and self._file.seekable()

    def seek(self, frame: int) -> None:
        self._read = self._file.seek(min(frame, self.frames))

    def read(self, frames: int) -> Samples:
        """The next block, (up to `frames`, channels); an empty one at the end.

        Raises:
            UserError: the file is damaged from here on.
        """
        import soundfile

        try:
            block: Samples = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self._damaged(_reason(error)) from None
        self._read += len(block)
        if len(block) < frames and self._read < self.frames:
            raise self._damaged(f"{self.frames - self._read} frames are missing")
        return block

    def check_channel(self, channel: int | None) -> None:
        """Raises UserError where the file has no such channel."""
        if channel is not None and channel >= self.channels:
            raise UserError(
                f"{self.path}: has no channel {channel}; allowed: 0 to {self.channels - 1}"
            )

    def close(self) -> None:
        self._file.close()

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path}: damaged after {self._read / self.rate:.2f} s ({reason})")


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2].strip().rstrip(".") or type(error).__name__


def to_mono(block: Samples, channel: int | None) -> Samples:
    """One channel of a block (frames, channels), or the mean of all: (frames,).

    Channels are summed one after the other, so a sample's bits do not depend on the block.
    What is not finite (float files may hold it) becomes silence or full scale.
    """
    if channel is not None:
        mono = block[:, channel]
    else:
        mono = block[:, 0]
        if block.shape[1] > 1:
            mono = mono.copy()
            for other in range(1, block.shape[1]):
                mono += block[:, other]
            mono /= np.float32(block.shape[1])
    if not np.isfinite(mono).all():
        mono = np.nan_to_num(mono, nan=0.0, posinf=1.0, neginf=-1.0)
    return mono


FULL_SCALE = 1 << 23
"""Steps of a 24-bit sample from 0 to 1."""


def quantize(samples: Samples) -> Samples:
    """Samples as the nearest 24-bit ones: what a FLAC file holds exactly.

    The ring holds nothing finer, so that a recording of it replays bit for bit. 16-bit and
    24-bit sound passes as it is.
    """
    steps: Samples = np.rint(samples * np.float32(FULL_SCALE))
    np.clip(steps, -FULL_SCALE, FULL_SCALE - 1, out=steps)
    steps /= np.float32(FULL_SCALE)
    return steps
