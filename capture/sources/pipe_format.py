"""The format of the bytes on standard input: raw samples, a WAV header, or a compressed file."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from collections.abc import Callable

import numpy as np

from speech_emotion.capture.container import STREAMED_RIFF
from speech_emotion.capture.samples import Samples
from speech_emotion.capture.sound_file import MAX_RATE, MIN_RATE
from speech_emotion.common.errors import UserError

MAGIC_BYTES = 12
"""Bytes that tell most formats apart."""
MP3_BYTES = 4096
"""Bytes in which two frames of an MP3 stream are found."""
PIECE_BYTES = 1024
"""Bytes of a header that are read at once: a pipe holds at least so many."""
MAX_HEADER = 1 << 20
"""Longest header of a WAV in bytes."""
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
"""Format tags of WAV that are read."""

FORMATS = (
    (b"fLaC", "a FLAC file"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 file"),
    (b"FORM", "an AIFF file"),
    (b".snd", "an AU file"),
    (b"caff", "a CAF file"),
    (b"riff", "a W64 file"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM file"),
)
DECODE = "decode it first, such as: ffmpeg -i FILE -f s16le -ar 16000 -ac 1 - | …, or use file:FILE"


@dataclasses.dataclass(frozen=True)
class PipeFormat:
    """The format of the samples in a pipe.

    Attributes:
        rate: sample rate in Hz.
        channels: number of interleaved channels.
        encoding: `u8`, `s16`, `s24`, `s32`, `f32` or `f64`, little-endian.
        length: bytes of samples; None: up to the end of the pipe.
        header: whether a WAV header gave the format; else the source's text.
    """

    rate: int
    channels: int
    encoding: str = "s16"
    length: int | None = None
    header: bool = False

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.channels * int(self.encoding[1:]) // 8

    def decode(self, content: bytes) -> Samples:
        """Whole frames as float32, (frames, channels)."""
        kind, width = self.encoding[0], int(self.encoding[1:]) // 8
        if kind == "f":
            samples = np.frombuffer(content, f"<f{width}").astype(np.float32)
        elif kind == "u":
            samples = (np.frombuffer(content, "u1").astype(np.float32) - 128.0) / 128.0
        elif width == 3:
            padded = np.zeros((len(content) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(content, "u1").reshape(-1, 3)
            samples = padded.view("<i4").reshape(-1).astype(np.float32) / np.float32(1 << 31)
        else:
            scale = np.float32(1 << (8 * width - 1))
            samples = np.frombuffer(content, f"<i{width}").astype(np.float32) / scale
        return samples.reshape(-1, self.channels)

    def save(self, descriptor: int | None) -> None:
        """Keep the format for the process that continues after this one."""
        if descriptor is not None:
            line = json.dumps(dataclasses.asdict(self)).encode()
            os.pwrite(descriptor, line.ljust(256), 0)

    @classmethod
    def load(cls, descriptor: int | None) -> PipeFormat | None:
        """The format that an earlier process has saved; None if there was none."""
        line = b"" if descriptor is None else os.pread(descriptor, 256, 0).strip(b" \0")
        return cls(**json.loads(line)) if line else None


class FormatProbe:
    """Finds the format from the first bytes, and reads no byte that the format does not need.

    Args:
        read: reads exactly so many bytes from the pipe; None while it has fewer.
        raw: the format of raw samples, as the source's text gives it.

    Attributes:
        samples: bytes that were read and are samples.
    """

    def __init__(self, read: Callable[[int], bytes | None], raw: PipeFormat) -> None:
        self.samples = b""
        self._read = read
        self._raw = raw
        self._start = b""
        self._encoding: PipeFormat | None = None
        self._chunk: tuple[bytes, int] | None = None
        self._content = b""
        self._header_bytes = 0

    def turn(self) -> PipeFormat | None:
        """The format; None while bytes are missing.

        Raises:
            UserError: it is a format that is not read from a pipe.
        """
        if len(self._start) < MAGIC_BYTES:
            start = self._read(MAGIC_BYTES)
            if start is None:
                return None
            self._start = start
        if self._start[:4] in (b"RIFF", b"RF64") and self._start[8:] == b"WAVE":
            return self._wav()
        for magic, name in FORMATS:
            if self._start.startswith(magic):
                raise UserError(f"standard input is {name}, not raw samples; {DECODE}")
        if self._start[4:8] == b"ftyp":
            raise UserError(f"standard input is an MP4 file, not raw samples; {DECODE}")
        if mp3_frame_bytes(self._start) and len(self._start) < MP3_BYTES:
            more = self._read(MP3_BYTES - len(self._start))
            if more is None:
                return None
            self._start += more
        length = mp3_frame_bytes(self._start)
        if length and mp3_frame_bytes(self._start[length:]):
            raise UserError(f"standard input is an MP3 file, not raw samples; {DECODE}")
        return self.ended()

    def ended(self) -> PipeFormat:
        """The format where no more bytes will come: raw samples.

        Raises:
            UserError: it is an incomplete WAV header.
        """
        if self._start[8:] == b"WAVE":
            raise UserError("standard input is a WAV file that ends in its header")
        self.samples = self._start
        return self._raw

    def _wav(self) -> PipeFormat | None:
        while True:
            if self._chunk is None:
                head = self._read(8)
                if head is None:
                    return None
                name, size = struct.unpack("<4sI", head)
                if name == b"data":
                    return self._data(size)
                self._chunk = name, size + size % 2
                self._header_bytes += 8 + size
                if self._header_bytes > MAX_HEADER:
                    raise UserError("standard input is a WAV file with a damaged header")
            name, size = self._chunk
            while len(self._content) < size:
                piece = self._read(min(size - len(self._content), PIECE_BYTES))
                if piece is None:
                    return None
                self._content += piece
            content, self._content, self._chunk = self._content, b"", None
            if name == b"fmt ":
                self._encoding = _wav_format(content)

    def _data(self, size: int) -> PipeFormat:
        if self._encoding is None:
            raise UserError("standard input is a WAV file with a damaged header")
        streamed = size == 0 or size >= STREAMED_RIFF
        return dataclasses.replace(self._encoding, length=None if streamed else size)


def _wav_format(content: bytes) -> PipeFormat:
    if len(content) < 16:
        raise UserError("standard input is a WAV file with a damaged header")
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == EXTENSIBLE and len(content) >= 26:
        tag = struct.unpack("<H", content[24:26])[0]
    kinds = {(PCM, 8): "u8", (PCM, 16): "s16", (PCM, 24): "s24", (PCM, 32): "s32"}
    kinds |= {(FLOAT, 32): "f32", (FLOAT, 64): "f64"}
    encoding = kinds.get((tag, bits))
    if encoding is None:
        raise UserError(
            f"standard input is a WAV file of format {tag} with {bits} bits, "
            f"which is not read from a pipe; {DECODE}"
        )
    if not channels or frame != channels * bits // 8:
        raise UserError("standard input is a WAV file with a damaged header")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(
            f"standard input is a WAV file with a sample rate of {rate} Hz; "
            f"allowed: {MIN_RATE} to {MAX_RATE} Hz"
        )
    return PipeFormat(rate, channels, encoding, header=True)


def mp3_frame_bytes(content: bytes) -> int:
    """Length of the MPEG layer III frame at the start of some bytes; 0: there is none."""
    if len(content) < 4 or content[0] != 0xFF or content[1] & 0xE6 != 0xE2:
        return 0
    version, rate_code = content[1] >> 3 & 3, content[2] >> 2 & 3
    bitrate_code, padding = content[2] >> 4, content[2] >> 1 & 1
    if version == 1 or rate_code == 3 or bitrate_code in (0, 15):
        return 0
    rate = (44100, 48000, 32000)[rate_code] >> {3: 0, 2: 1, 0: 2}[version]
    if version == 3:
        steps = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    else:
        steps = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    samples = 144 if version == 3 else 72
    return samples * steps[bitrate_code - 1] * 1000 // rate + padding
