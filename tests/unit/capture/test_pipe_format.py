"""What the first bytes of standard input say about its format."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from speech_emotion.capture.sources.pipe_format import FormatProbe, PipeFormat
from speech_emotion.common.errors import UserError
from tests.support.pipelines import DEMO

RAW = PipeFormat(16000, 1)
SPEECH, RATE = soundfile.read(DEMO, frames=32000, dtype="float32")


class Pipe:
    """A pipe whose content arrives in pieces of one size."""

    def __init__(self, content: bytes, piece: int) -> None:
        self.content, self.piece = content, piece
        self.arrived = self.read = 0

    def take(self, size: int) -> bytes | None:
        if self.arrived - self.read < size:
            return None
        self.read += size
        return self.content[self.read - size : self.read]

    def probe(self) -> tuple[PipeFormat, bytes]:
        """The format, and the bytes after its header."""
        probe = FormatProbe(self.take, RAW)
        while self.arrived < len(self.content):
            self.arrived = min(len(self.content), self.arrived + self.piece)
            if (found := probe.turn()) is not None:
                break
        else:
            found = probe.turn() or probe.ended()
        return found, probe.samples + self.content[self.read :]


def encoded(kind: str, subtype: str | None = None, samples: np.ndarray = SPEECH) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("piece", [1, 7, 100, 65536])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_is_read_as_what_it_is(kind: str, subtype: str, channels: int, piece: int) -> None:
    samples = np.stack([SPEECH, SPEECH[::-1]], axis=1)[:3000, :channels]
    content = encoded(kind, subtype, samples)
    found, rest = Pipe(content, piece).probe()
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert (found.rate, found.channels, found.header) == (RATE, channels, True)
    assert found.length is not None
    assert np.array_equal(found.decode(rest[: found.length]), expected)


def test_the_length_that_arecord_writes_into_a_pipe_is_unknown() -> None:
    content = bytearray(encoded("WAV"))
    for size in (0, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF):
        content[40:44] = struct.pack("<I", size)
        assert Pipe(bytes(content), 999).probe()[0].length is None


def test_long_chunks_before_the_samples_are_skipped() -> None:
    content = encoded("WAV")
    extra = b"LIST" + struct.pack("<I", 70001) + bytes(70002)
    found, rest = Pipe(content[:36] + extra + content[36:], 4096).probe()
    assert found.rate == RATE
    assert len(rest) == found.length


@pytest.mark.parametrize(
    ("kind", "word"),
    [("FLAC", "FLAC"), ("OGG", "Ogg"), ("MP3", "MP3"), ("AIFF", "AIFF"), ("AU", "AU"),
     ("CAF", "CAF"), ("W64", "W64")],
)  # fmt: skip
@pytest.mark.parametrize("piece", [1, 4096])
def test_another_file_is_refused_with_a_remedy(kind: str, word: str, piece: int) -> None:
    with pytest.raises(UserError) as refused:
        Pipe(encoded(kind, None, SPEECH.repeat(1)), piece).probe()
    assert word in str(refused.value)
    assert "ffmpeg" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_mp3_with_a_tag_is_refused() -> None:
    with pytest.raises(UserError, match="MP3"):
        Pipe(b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + encoded("MP3"), 4096).probe()


@pytest.mark.parametrize("subtype", ["ULAW", "IMA_ADPCM"])
def test_a_wav_in_an_encoding_that_is_not_read(subtype: str) -> None:
    with pytest.raises(UserError, match="not read from a pipe"):
        Pipe(encoded("WAV", subtype), 4096).probe()


@pytest.mark.parametrize("cut", [12, 20, 30, 40])
def test_a_wav_that_ends_in_its_header(cut: int) -> None:
    with pytest.raises(UserError, match="ends in its header"):
        Pipe(encoded("WAV")[:cut], 4096).probe()


def test_raw_samples_that_look_like_an_mp3_header_are_raw() -> None:
    content = b"\xff\xfb\x90\x64" + bytes(8000)
    found, rest = Pipe(content, 100).probe()
    assert found == RAW
    assert rest == content


def test_raw_samples_are_read_completely() -> None:
    content = (SPEECH * 32767).astype("<i2").tobytes()
    for size in (0, 2, 11, 12, 5000):
        found, rest = Pipe(content[:size], 3).probe()
        assert found == RAW
        assert rest == content[:size]


def test_the_format_is_kept_for_the_next_process() -> None:
    descriptor = os.memfd_create("format")
    assert PipeFormat.load(descriptor) is None
    for found in (PipeFormat(48000, 2, "s24", None, True), PipeFormat(8000, 1, "u8", 77)):
        found.save(descriptor)
        assert PipeFormat.load(descriptor) == found
    os.close(descriptor)
    assert PipeFormat.load(None) is None
