"""A sound file as blocks of float32, (frames, channels)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speech_emotion.capture import container
from speech_emotion.capture.samples import Channels, Samples, channels_needed
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux import spool

if TYPE_CHECKING:
    import soundfile

SEEKABLE_EXACTLY = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")
"""Containers with exact seeking. In the others a resumed read verifies the samples."""
UNKNOWN_FRAMES = 1 << 48
"""libsndfile reports at least this many frames where the header does not give the length."""
DECODE_FRAMES = 4096
"""Frames that are decoded at once."""
MIN_RATE, MAX_RATE = 1000, 1_000_000
"""Sample rates in Hz that are read."""


class SoundFile:
    """A sound file of any channel count and format that libsndfile reads, 1 kHz to 1 MHz.

    A file that is broken off or damaged is read up to the damage; the next `read` raises. A file
    whose header does not give the length (FLAC written into a pipe, RIFF size 0) is read to its
    end.

    Args:
        path: path of the file, or of a pipe, which is read to its end first.
        content: path to read instead, where `path` is only the name for messages.

    Attributes:
        path: path as the user gave it.
        rate: sample rate in Hz.
        channels: number of channels.
        frames: number of frames; None: the header does not give it.

    Raises:
        UserError: the file is missing, empty, no sound file, or of a sample rate out of range.
    """

    def __init__(self, path: str, content: Path | None = None) -> None:
        self.path = Path(path)
        source = content or _checked(path)
        self._broken: str | None = None
        self._patched: container.PatchedFile | None = None
        self._file = self._open(source)
        self.rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        frames: int = self._file.frames
        self.frames: int | None = None if frames >= UNKNOWN_FRAMES else frames
        self._read = 0
        self._error: UserError | None = None
        self._decoded: Samples = np.zeros((0, self.channels), np.float32)
        if frames == 0:
            self.close()
            raise UserError(f"{path}: holds no samples")
        if not MIN_RATE <= self.rate <= MAX_RATE:
            self.close()
            raise UserError(
                f"{path}: has a sample rate of {self.rate} Hz; allowed: {MIN_RATE} to {MAX_RATE} Hz"
            )

    def _open(self, source: Path) -> soundfile.SoundFile:
        import soundfile

        try:
            with source.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size == 0:
                    raise UserError(f"{self.path}: is empty")
                header = container.examine(file, size)
            self._broken = header.broken
            with _quiet_libraries():
                if header.patch:
                    binary = source.open("rb", buffering=0)
                    self._patched = container.PatchedFile(binary, header.patch)
                    return soundfile.SoundFile(self._patched)
                # Bytes: soundfile cannot encode a name that is not UTF-8.
                return soundfile.SoundFile(os.fsencode(source))
        except OSError as error:
            self._close_patched()
            reason = error.strerror or str(error)
            raise UserError(f"{self.path}: cannot be read ({reason})") from None
        except (soundfile.LibsndfileError, TypeError) as error:
            self._close_patched()
            raise UserError(f"{self.path}: cannot be read as sound ({_reason(error)})") from None

    @property
    def seekable(self) -> bool:
        """Whether a read after a seek gives the same samples as a read from the start."""
        lossless = self._file.subtype.startswith(("PCM", "FLOAT", "DOUBLE"))
        exact = self._file.format in SEEKABLE_EXACTLY and lossless
        return exact and self.frames is not None and bool(self._file.seekable())

    def seek(self, frame: int) -> None:
        """Continue at a frame, or at the end where the file is shorter."""
        import soundfile

        target = frame if self.frames is None else min(frame, self.frames)
        self._decoded = self._decoded[:0]
        try:
            with self._quiet():
                self._read = self._file.seek(target)
        except soundfile.LibsndfileError as error:
            self._error = self._damaged(_reason(error))

    def read(self, frames: int) -> Samples:
        """Read the next block, (up to `frames`, channels); it is empty at the end.

        Raises:
            UserError: the file is damaged from here on.
        """
        block = np.empty((frames, self.channels), np.float32)
        filled = 0
        while filled < frames:
            if not len(self._decoded) and (self._error is not None or not self._decode()):
                break
            piece = self._decoded[: frames - filled]
            block[filled : filled + len(piece)] = piece
            self._decoded = self._decoded[len(piece) :]
            filled += len(piece)
        if not filled and frames and self._error is not None:
            raise self._error
        return block[:filled]

    def _decode(self) -> bool:
        """Decode the next frames; False at the end or before a damage.

        Always so many at once: after a damage, what a decoder returns depends on that number,
        and results must not depend on the size of the blocks.
        """
        block = np.empty((DECODE_FRAMES, self.channels), np.float32)
        with self._quiet():
            count, reason = _read_into(self._file, block)
        self._read += count
        if count < DECODE_FRAMES:
            if reason is None and self._broken is not None:
                reason = self._broken
            if reason is None and self.frames is not None and self._read < self.frames:
                reason = f"{self.frames - self._read} frames are missing"
        if reason is not None:
            self._error = self._damaged(reason)
        self._decoded = block[:count]
        return count > 0

    def check_channel(self, channel: Channels) -> None:
        """Raise UserError if the file has no such channel."""
        if (needed := channels_needed(channel)) > self.channels:
            raise UserError(
                f"{self.path}: has no channel {needed - 1}; allowed: 0 to {self.channels - 1}"
            )

    def close(self) -> None:
        self._file.close()
        self._close_patched()

    def _close_patched(self) -> None:
        if self._patched is not None:
            self._patched.close()

    def _quiet(self) -> contextlib.AbstractContextManager[None]:
        return _quiet_libraries() if self._file.format == "MP3" else contextlib.nullcontext()

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path}: damaged after {self._read / self.rate:.2f} s ({reason})")


def _checked(path: str) -> Path:
    """The file to read for a path: the path itself, or the temporary copy of a pipe."""
    if "\0" in path:
        raise UserError(f"{path!r}: is not a file name")
    file = Path(path)
    if file.is_dir():
        raise UserError(f"{path}: is a folder, not a sound file")
    if spool.is_pipe(path):
        return spool.descriptor_path(spool.spool(path))
    if not file.exists():
        raise UserError(f"{path}: no such file")
    return file


def _read_into(file: soundfile.SoundFile, block: Samples) -> tuple[int, str | None]:
    """Frames read into a block (frames, channels), and the error that ended the read, in words.

    `soundfile.SoundFile.read` discards the frames before a damage, and seeks after every read,
    which fails in a file of unknown length. So this calls libsndfile itself.
    """
    import soundfile

    library: Any = soundfile._snd
    pointer = soundfile._ffi.cast("float *", block.ctypes.data)
    count = int(library.sf_readf_float(file._file, pointer, len(block)))
    error = int(library.sf_error(file._file))
    if not error:
        return count, None
    text = soundfile._ffi.string(library.sf_error_number(error)).decode("utf-8", "replace")
    return count, text.rpartition(": ")[2].strip().rstrip(".")


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Discard what libmpg123 prints to stderr about a damaged MP3; the error is reported once."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # stderr is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _reason(error: Exception) -> str:
    return str(error).rpartition(": ")[2].strip().rstrip(".") or type(error).__name__
