"""A restarted process of a file continues with the same bits, and without decoding it again."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.sources.file import FileStream
from speech_emotion.capture.stream import StreamJob
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire import internal
from tests.support.pipelines import DEMO

FORMAT = StreamFormat(16000, WindowGrid(16000, 8000))
SECONDS = 40


@pytest.fixture
def ring() -> Iterator[RingOwner]:
    run = secrets.token_hex(8)
    with create_ring("resume", sample_rate=16000, capacity=60 * 16000, run=run) as ring:
        yield ring


def sound(tmp_path: Path, kind: str, rate: int, channels: int) -> Path:
    speech, own = soundfile.read(DEMO, dtype="float32")
    samples = soxr.resample(np.tile(speech, 2)[: SECONDS * own], own, rate)
    if channels == 2:
        samples = np.stack([samples, np.roll(samples, rate // 3)], axis=1)
    path = tmp_path / f"sound.{kind}"
    with soundfile.SoundFile(path, "w", rate, channels) as file:
        for at in range(0, len(samples), 16384):
            file.write(samples[at : at + 16384])
    return path


def start(path: Path, ring: RingOwner) -> FileStream:
    job = StreamJob("resume", f"file:{path}", ring.name)
    stream = FileStream(job, FORMAT, itertools.repeat(1999), lambda _: None, realtime=False)
    stream.ahead.accepted = internal.Accepted("resume", ring.run, 10_000, False)
    return stream


def content(ring: RingOwner) -> np.ndarray:
    with RingReader.attach(ring.name) as reader:
        samples = np.empty(reader.index, np.float32)
        assert reader.read(0, samples, reader.index)
    return samples


@pytest.mark.parametrize(
    ("kind", "rate", "channels", "sought"),
    [
        ("mp3", 44100, 2, True),
        ("mp3", 48000, 1, True),
        ("mp3", 16000, 1, True),
        ("mp3", 22050, 1, True),
        ("ogg", 44100, 2, True),
        ("ogg", 16000, 1, True),
        ("flac", 44100, 2, True),
        ("flac", 16000, 1, True),
        ("wav", 48000, 2, True),
        ("wav", 22050, 1, True),
        ("wav", 8000, 1, True),
        ("wav", 11025, 1, False),  # no known period of the resampler
    ],
)
def test_a_restarted_process_writes_the_same_bits(
    tmp_path: Path, ring: RingOwner, kind: str, rate: int, channels: int, sought: bool
) -> None:
    path = sound(tmp_path, kind, rate, channels)
    whole = start(path, ring)
    while not whole.feeder.ended:
        whole.turn(0.0)
    expected = content(ring)
    whole.feeder.ring.close()
    with create_ring("again", sample_rate=16000, capacity=60 * 16000, run="0" * 16) as second:
        chance, starts, sought_starts = np.random.default_rng(rate), 0, 0
        while True:
            stream = start(path, second)
            if starts and stream.feeder.position > 8 * 16000:
                sought_starts += not stream.feeder.skip
                if not sought:
                    assert stream.condition.state is SourceState.RECOVERING
            starts += 1
            stop = stream.feeder.position + int(chance.integers(3 * 16000, 9 * 16000))
            while not stream.feeder.ended and stream.feeder.position < stop:
                stream.turn(0.0)
            stream.feeder.ring.close()
            if stream.feeder.ended:
                break
        assert np.array_equal(content(second), expected)
        assert starts > 4
        assert sought_starts >= 3 if sought else sought_starts == 0


@pytest.mark.parametrize("rate", [16000, 22050])
def test_quiet_samples_are_no_evidence_for_the_right_frame(tmp_path: Path, rate: int) -> None:
    """At a wrong frame an MP3 decoder rounds differently, which only loud samples show."""
    speech, own = soundfile.read(DEMO, dtype="float32")
    speech = soxr.resample(speech, own, rate)
    quiet = np.random.default_rng(0).normal(0.0, 1e-4, 12 * rate).astype(np.float32)
    samples = np.concatenate([speech, quiet, speech])
    path = tmp_path / "sound.mp3"
    soundfile.write(path, samples, rate)
    expected = read_recording(str(path), 16000).samples
    begin = len(speech) * 16000 // rate
    for position in range(begin + 4 * 16000, begin + 12 * 16000, 9_000):
        with create_ring(
            "quiet", sample_rate=16000, capacity=len(expected) + 32000, run="0" * 16
        ) as ring:
            writer = RingWriter.attach(ring.name)
            writer.write(expected[:position])
            writer.close()
            stream = start(path, ring)
            while not stream.feeder.ended:
                stream.turn(0.0)
            stream.feeder.ring.close()
            assert np.array_equal(content(ring), expected), position
