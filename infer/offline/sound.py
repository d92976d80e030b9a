"""What can be analysed: a path, an open file, or samples; read as blocks of float32."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from speech_emotion.capture.recording.reader import RecordingFile, open_recording
from speech_emotion.capture.samples import Samples
from speech_emotion.capture.sound_file import MAX_RATE, MIN_RATE, SoundFile
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.spool import descriptor_path

Source: TypeAlias = "str | os.PathLike[str] | BinaryIO | NDArray[Any]"
"""A path of a sound file or recording, a binary file, or samples."""

BLOCK_FRAMES = 1 << 15
"""Frames that are read at once: 2 s at 16 kHz, 1 MB of eight channels."""
FULL_SCALES = {"int16": 1 << 15, "int32": 1 << 31}
"""Types of integer samples, and the magnitude of their full scale."""
FLOATS = ("float32", "float64")


class Blocks(Protocol):
    """Frames of a file, block by block."""

    @property
    def rate(self) -> int: ...
    @property
    def channels(self) -> int: ...

    def read(self, frames: int) -> Samples:
        """The next block, (up to `frames`, channels); empty at the end.

        Raises:
            UserError: the file is damaged from here on.
        """
        ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Sound:
    """An open source.

    Attributes:
        name: its path, for messages.
        blocks: its frames.
        gaps: spans [a, b) of missing samples, of a recording only.
        frames: number of frames, where it is known.
    """

    name: str
    blocks: Blocks
    gaps: list[list[int]]
    frames: int | None

    def __iter__(self) -> Iterator[Samples]:
        """Blocks of float32, (frames, channels).

        Raises:
            UserError: the file is damaged from here on.
        """
        while len(block := self.blocks.read(BLOCK_FRAMES)):
            yield block

    def close(self) -> None:
        self.blocks.close()


def open_sound(
    source: str | os.PathLike[str] | BinaryIO, rate: int, channel: int | None = None
) -> Sound:
    """Open a sound file, or a folder that `--record` has written.

    Args:
        source: a path, or a file opened in binary mode, which is read from its position on.
        rate: sample rate of the bundle in Hz, which a recording must have.
        channel: the channel that will be taken; None: all.

    Raises:
        UserError: the file is missing, empty, no sound file, or lacks the channel; a folder is
            no recording, or one of another rate.
    """
    if not isinstance(source, str | os.PathLike):
        return _open_file(source, channel)
    path = os.fspath(source)
    if Path(path).is_dir():
        recording = open_recording(Path(path), rate)
        folder = RecordingFile(recording)
        folder.check_channel(channel)
        return Sound(path, folder, recording.gaps, recording.length)
    return _checked(SoundFile(path), channel)


def _open_file(source: BinaryIO, channel: int | None) -> Sound:
    name = str(getattr(source, "name", "") or "the file")
    try:
        # libsndfile seeks, and reads most formats through a descriptor only.
        with tempfile.TemporaryFile(buffering=0) as copy:
            shutil.copyfileobj(source, copy)
            return _checked(SoundFile(name, descriptor_path(copy.fileno())), channel)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None


def _checked(file: SoundFile, channel: int | None) -> Sound:
    try:
        file.check_channel(channel)
    except UserError:
        file.close()
        raise
    return Sound(str(file.path), file, [], file.frames)


def check_rate(rate: int) -> int:
    """The sample rate itself.

    Raises:
        UserError: it is no whole number of Hz, or out of range.
    """
    if isinstance(rate, bool) or int(rate) != rate or not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(f"a sample rate of {rate!r} is not {MIN_RATE} to {MAX_RATE} Hz")
    return int(rate)


def as_block(samples: NDArray[Any]) -> Samples:
    """Samples as float32, (frames, channels), full scale 1.0, with the bits that a file has.

    Args:
        samples: (frames,) or (frames, channels); float32, float64, int16 or int32.

    Raises:
        UserError: another type or shape.
    """
    array = np.asarray(samples)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim != 2 or not array.shape[1]:
        raise UserError(
            f"samples of shape {np.shape(samples)} must be (frames,) or (frames, channels)"
        )
    name = array.dtype.name
    if name in FULL_SCALES:
        return array.astype(np.float32) / np.float32(FULL_SCALES[name])
    if name not in FLOATS:
        allowed = ", ".join((*FLOATS, *FULL_SCALES))
        raise UserError(f"samples of type {name} must be one of {allowed}")
    with np.errstate(over="ignore"):  # becomes infinity, which counts as full scale
        return array.astype(np.float32)


def check_channel(channels: int, channel: int | None) -> None:
    """Raise UserError if a block of so many channels lacks the channel."""
    if channel is not None and not 0 <= channel < channels:
        raise UserError(f"has no channel {channel}; allowed: 0 to {channels - 1}")
