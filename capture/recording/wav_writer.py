"""Writes what a device gives to a sound file, sample for sample."""

from __future__ import annotations

import numpy as np

from speech_emotion.capture.sources.sound_file import Samples
from speech_emotion.common.errors import UserError


class WavWriter:
    """A 16-bit sound file of the device's own rate and channels.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: str, rate: int, channels: int) -> None:
        import soundfile

        try:
            self._file = soundfile.SoundFile(path, "w", rate, channels, subtype="PCM_16")
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
            reason = str(error).rpartition(": ")[2].rstrip(".")
            raise UserError(f"{path}: cannot be written ({reason})") from None

    def write(self, samples: Samples) -> None:
        """Append samples (frames, channels)."""
        # libsndfile scales floats by 32767; what came as 16 bit must go back as it came.
        scaled = np.clip(np.rint(samples * 32768.0), -32768, 32767)
        self._file.write(scaled.astype(np.int16))

    def close(self) -> None:
        self._file.close()
