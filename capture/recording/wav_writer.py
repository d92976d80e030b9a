"""Write the samples of a device to a sound file."""

from __future__ import annotations

import contextlib

import numpy as np

from speech_emotion.capture.samples import Samples
from speech_emotion.common.errors import UserError


class WavWriter:
    """A 16-bit sound file with the rate and the channels of the device.

    Args:
        rate: sample rate in Hz.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: str, rate: int, channels: int) -> None:
        import soundfile

        self._path = path
        try:
            self._file = soundfile.SoundFile(path, "w", rate, channels, subtype="PCM_16")
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
            reason = str(error).rpartition(": ")[2].rstrip(".")
            raise UserError(f"{path}: cannot be written ({reason})") from None

    def write(self, samples: Samples) -> None:
        """Append samples (frames, channels).

        Raises:
            UserError: the disk is full, or the file cannot be written any more.
        """
        # libsndfile scales floats by 32767. A device's 16-bit samples were divided by 32768, and
        # the file must hold the same integers.
        scaled = np.clip(np.rint(samples * 32768.0), -32768, 32767)
        try:
            self._file.write(scaled.astype(np.int16))
        except (OSError, RuntimeError, AssertionError):  # soundfile asserts that all was written
            raise UserError(f"{self._path}: cannot be written; is the disk full?") from None

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._file.close()
