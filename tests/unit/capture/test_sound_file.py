"""Sound files that are broken off, damaged, of unknown length, or with odd names and headers."""

from __future__ import annotations

import io
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.sound_file import SoundFile
from speech_emotion.common.errors import UserError
from tests.support.pipelines import DEMO

RATE = 16000


@pytest.fixture(scope="module")
def speech() -> NDArray[np.float32]:
    samples, _ = soundfile.read(DEMO, dtype="float32")
    return np.asarray(samples[: 5 * RATE])


def encoded(samples: NDArray[np.float32], kind: str, rate: int = RATE) -> bytearray:
    buffer = io.BytesIO()
    name, _, subtype = kind.partition("/")
    soundfile.write(buffer, samples, rate, format=name, subtype=subtype or None)
    return bytearray(buffer.getvalue())


def read(path: Path, block: int) -> tuple[NDArray[np.float32], str | None]:
    """All samples, and the error that ended them."""
    file, blocks, error = SoundFile(str(path)), [], None
    try:
        while len(content := file.read(block)):
            blocks.append(content)
    except UserError as damage:
        error = str(damage)
    file.close()
    return np.concatenate(blocks) if blocks else np.zeros((0, file.channels), np.float32), error


KINDS = (
    *("WAV/PCM_16", "WAV/PCM_24", "WAV/FLOAT", "RF64/PCM_16", "AIFF/PCM_16", "AU/PCM_16"),
    *("CAF/PCM_16", "W64/PCM_16", "FLAC/PCM_16", "OGG/VORBIS", "OGG/OPUS", "MP3"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_before_the_break_is_read(
    tmp_path: Path, speech: NDArray[np.float32], kind: str
) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    content = encoded(speech, kind)
    whole.write_bytes(content)
    part.write_bytes(content[: len(content) * 6 // 10])
    complete, error = read(whole, 4096)
    assert error is None
    assert len(complete) == len(speech)
    results = [read(part, block) for block in (65536, 4096, 320, 7)]
    for samples, damage in results:
        assert damage is not None
        assert "damaged after" in damage
        assert np.array_equal(samples, results[0][0])
    samples = results[0][0]
    assert len(samples) > 0.4 * len(speech)  # pages of Ogg are long
    # The decoder of a lossy format may fade out where its last frame is incomplete.
    exact = len(samples) - (2000 if kind in ("MP3", "OGG/VORBIS", "OGG/OPUS") else 0)
    assert np.array_equal(samples[:exact], complete[:exact])


@pytest.mark.parametrize("block", [65536, 320])
def test_a_flac_of_unknown_length_is_read_to_its_end(
    tmp_path: Path, speech: NDArray[np.float32], block: int
) -> None:
    content = encoded(speech, "FLAC/PCM_16")
    content[21] &= 0xF0  # 36 bits of STREAMINFO: the number of samples
    content[22:26] = bytes(4)
    path = tmp_path / "piped.flac"
    path.write_bytes(content)
    samples, error = read(path, block)
    assert error is None
    assert len(samples) == len(speech)
    assert not SoundFile(str(path)).seekable


@pytest.mark.parametrize(
    ("riff", "data"),
    [(0, 0), (None, 0), (0, None), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFDB)],
)
def test_a_wav_header_that_was_never_completed(
    tmp_path: Path, speech: NDArray[np.float32], riff: int | None, data: int | None
) -> None:
    content = encoded(speech, "WAV/PCM_16")
    if riff is not None:
        content[4:8] = struct.pack("<I", riff)
    if data is not None:
        content[40:44] = struct.pack("<I", data)
    path = tmp_path / "piped.wav"
    path.write_bytes(content)
    samples, error = read(path, 4096)
    assert error is None
    assert np.array_equal(samples[:, 0], np.round(speech * 32768.0) / 32768.0)


def test_a_wav_without_samples_but_with_other_chunks_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    content = encoded(np.zeros(0, np.float32), "WAV/PCM_16") + b"LIST\x04\x00\x00\x00INFO"
    content[4:8] = struct.pack("<I", len(content) - 8)
    path.write_bytes(content)
    with pytest.raises(UserError, match="holds no samples"):
        SoundFile(str(path))


def test_a_damage_in_the_middle_of_a_flac_loses_nothing_before_it(
    tmp_path: Path, speech: NDArray[np.float32]
) -> None:
    content = encoded(speech, "FLAC/PCM_16")
    content[len(content) // 2 : len(content) // 2 + 200] = b"\xaa" * 200
    path = tmp_path / "damaged.flac"
    path.write_bytes(content)
    samples, error = read(path, 65536)
    assert error is not None
    assert len(samples) % 4096 == 0
    assert np.array_equal(samples[:, 0], (np.round(speech * 32768.0) / 32768.0)[: len(samples)])


@pytest.mark.parametrize("rate", [1, 999, 1_000_001])
def test_a_sample_rate_out_of_range(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "odd.wav"
    path.write_bytes(encoded(np.zeros(5000, np.float32), "WAV/PCM_16", rate))
    with pytest.raises(UserError, match=f"{rate} Hz; allowed: 1000 to 1000000 Hz"):
        SoundFile(str(path))


def test_a_name_that_is_not_utf_8(tmp_path: Path, speech: NDArray[np.float32]) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(encoded(speech, "WAV/PCM_16"))
    assert len(read_recording(str(path), RATE).samples) == len(speech)


@pytest.mark.parametrize("kind", ["WAV/PCM_16", "FLAC/PCM_16", "OGG/VORBIS", "MP3"])
def test_a_fifo_is_read_to_its_end(tmp_path: Path, speech: NDArray[np.float32], kind: str) -> None:
    content = bytes(encoded(speech, kind))
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.write_bytes(content)
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(content))
    writer.start()
    samples = read_recording(str(fifo), RATE).samples
    writer.join()
    assert np.array_equal(samples, read_recording(str(plain), RATE).samples)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/full"])
def test_a_device_is_no_sound_file(device: str) -> None:
    with pytest.raises(UserError, match="is a device, not a sound file"):
        SoundFile(device)


def test_damage_is_reported_after_the_samples_before_it(
    tmp_path: Path, speech: NDArray[np.float32]
) -> None:
    content = encoded(speech, "FLAC/PCM_16")
    path = tmp_path / "cut.flac"
    path.write_bytes(content[: len(content) // 2])
    recording = read_recording(str(path), RATE)
    assert recording.damage is not None
    assert len(recording.samples) > 0.4 * len(speech)


def test_a_file_too_short_for_one_sample_of_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    path.write_bytes(encoded(np.zeros(3, np.float32), "WAV/PCM_16", 192000))
    with pytest.raises(UserError, match="holds no samples"):
        read_recording(str(path), RATE)
