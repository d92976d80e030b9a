"""A sound file as blocks of float32, (frames, channels)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from speech_emotion.capture.samples import Samples
from speech_emotion.common.errors import UserError

if TYPE_CHECKING:
    import soundfile

SEEKABLE_EXACTLY = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")
"""Containers with exact seeking. In the others a resumed read decodes from the start."""


class SoundFile:
    """A sound file of any rate, channel count and format that libsndfile reads.

    Attributes:
        rate: sample rate in Hz.
        channels: number of channels.
        frames: number of frames.

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
        """Whether a read after a seek gives the same samples as a read from the start."""
        lossless = self._file.subtype.startswith(("PCM", "FLOAT", "DOUBLE"))
        return self._file.format in SEEKABLE_EXACTLY and lossless and self._file.seekable()

    def seek(self, frame: int) -> None:
        """Continue at a frame, or at the end where the file is shorter."""
        self._read = self._file.seek(min(frame, self.frames))

    def read(self, frames: int) -> Samples:
        """Read the next block, (up to `frames`, channels); it is empty at the end.

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
        """Raise UserError if the file has no such channel."""
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
