"""Sound files with damaged headers and contents: no traceback and no hang, at any entrance.

Most of the 400 files are read in this process, by the functions that all entrances share; a sample
goes through the commands.
"""

from __future__ import annotations

import faulthandler
import io
import itertools
import random
import secrets
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion.capture.offline import Recording, read_recording
from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.samples import quantize
from speech_emotion.capture.sources.file import FileStream
from speech_emotion.capture.stream import StreamJob
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.wire import internal
from tests.support.pipelines import DEMO, PATIENCE_S, ROOT, fresh_endpoint

RATE = 16000
LIMIT_S = 10.0
"""Most processor time in seconds that one file may take; a file takes some 10 ms."""
FORMAT = StreamFormat(RATE, WindowGrid(RATE, RATE // 2))

KINDS = (
    *("WAV/PCM_16", "WAV/FLOAT", "WAV/PCM_24", "RF64/PCM_16", "AIFF/PCM_16", "AU/PCM_16"),
    *("CAF/PCM_16", "W64/PCM_16", "FLAC/PCM_16", "FLAC/PCM_24", "OGG/VORBIS", "OGG/OPUS", "MP3"),
)


def encoded(kind: str) -> bytes:
    samples, _ = soundfile.read(DEMO, frames=2 * RATE, start=3 * RATE, dtype="float32")
    buffer = io.BytesIO()
    name, _, subtype = kind.partition("/")
    soundfile.write(buffer, samples, RATE, format=name, subtype=subtype or None)
    return buffer.getvalue()


def truncated(content: bytearray, chance: random.Random) -> bytearray:
    return content[: chance.randrange(len(content))]


def flipped_bits(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 10, 100))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def damaged_header(content: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randrange(1, 6)):
        content[chance.randrange(min(100, len(content)))] = chance.randrange(256)
    return content


def wrong_size(content: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(4, min(96, len(content) - 8))
    size = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, chance.randrange(1 << 32)))
    content[at : at + 4] = struct.pack(chance.choice("<>") + "I", size)
    return content


def foreign_bytes(content: bytearray, chance: random.Random) -> bytearray:
    at, size = chance.randrange(len(content)), chance.randrange(1, 2000)
    piece = chance.choice((bytes(size), chance.randbytes(size), b"\xff" * size))
    return content[:at] + piece + content[at + chance.choice((0, size)) :]


def repeated(content: bytearray, chance: random.Random) -> bytearray:
    return content + content[chance.randrange(len(content)) :]


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    *(truncated, flipped_bits, damaged_header, wrong_size, foreign_bytes, repeated),
)
CASES = [
    (kind, mutation, seed)
    for seed, (kind, mutation) in enumerate(
        itertools.islice(itertools.cycle(itertools.product(KINDS, MUTATIONS)), 400)
    )
]


def mutated(kind: str, mutation: Callable[..., bytearray], seed: int, path: Path) -> Path:
    path.write_bytes(mutation(bytearray(encoded(kind)), random.Random(seed)))
    return path


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {kind: encoded(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def ring() -> Iterator[RingOwner]:
    run = secrets.token_hex(8)
    with create_ring("mutated", sample_rate=RATE, capacity=60 * RATE, run=run) as ring:
        yield ring


def live(path: Path, ring: RingOwner) -> tuple[np.ndarray, str | None]:
    """What the capture stage writes into the ring, at most a minute, and its error."""
    with RingReader.attach(ring.name) as reader:
        start = reader.index
    try:
        job = StreamJob("mutated", f"file:{path}", ring.name)
        stream = FileStream(job, FORMAT, itertools.repeat(977), lambda _: None, realtime=False)
    except UserError as error:
        return np.zeros(0, np.float32), str(error)
    # The ring serves all files: this one begins at its end, not where an earlier one stopped.
    stream._file.close()
    stream.feeder = stream._new_feeder(skip=0)
    stream._file = stream._open(FORMAT)
    stream.ahead.accepted = internal.Accepted("mutated", ring.run, 1 << 40, False)
    while not stream.feeder.ended and stream.feeder.position - start < 50 * RATE:
        stream.turn(0.0)
    with RingReader.attach(ring.name) as reader:
        samples = np.empty(reader.index - start, np.float32)
        assert reader.read(start, samples, reader.index)
    stream.feeder.ring.close()
    return samples, None if stream.error is None else str(stream.error)


def offline_samples(path: Path) -> tuple[Recording | None, str | None]:
    try:
        recording = read_recording(str(path), RATE)
    except UserError as error:
        return None, str(error)
    return recording, None if recording.damage is None else str(recording.damage)


@pytest.mark.costly_cases
@pytest.mark.parametrize("part", range(8))
def test_a_mutated_file_ends_in_samples_or_one_line(
    tmp_path: Path, contents: dict[str, bytes], ring: RingOwner, part: int
) -> None:
    for kind, mutation, seed in CASES[part::8]:
        path = tmp_path / f"{seed}.{kind.partition('/')[0].lower()}"
        path.write_bytes(mutation(bytearray(contents[kind]), random.Random(seed)))
        # A decoder that hangs holds the interpreter: end the process and show where.
        faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
        began = time.process_time()
        recording, error = offline_samples(path)
        if error is not None:
            assert "\n" not in error
            assert str(path) in error
        if recording is not None:
            assert recording.samples.dtype == np.float32
            assert np.isfinite(recording.samples).all()
            assert np.array_equal(recording.samples, quantize(recording.samples))
            if len(recording.samples) < 50 * RATE:
                written, live_error = live(path, ring)
                assert np.array_equal(written, recording.samples), (kind, mutation, seed)
                assert live_error == error, (kind, mutation, seed)
        took = time.process_time() - began
        faulthandler.cancel_dump_traceback_later()
        assert took < LIMIT_S, (kind, mutation, seed)
        path.unlink()


ENTRANCES: dict[str, Callable[[Path], list[str]]] = {
    "infer": lambda path: ["-m", "infer", str(path)],
    "features": lambda path: ["-m", "features", str(path)],
    "capture": lambda path: ["-m", "capture", "--source", f"file:{path}"],
    "supervisor": lambda path: [
        *("supervisor.py", "--results", fresh_endpoint()),
        *("--source", f"file:{path}", "--speed=max"),
    ],
}
SAMPLE = [(*case, entrance) for case, entrance in zip(CASES[5::25], itertools.cycle(ENTRANCES))]


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("kind", "mutation", "seed", "entrance"),
    SAMPLE,
    ids=[f"{e}-{k}-{m.__name__}-{s}" for k, m, s, e in SAMPLE],
)
def test_a_mutated_file_ends_a_command_with_one_line(
    tmp_path: Path, kind: str, mutation: Callable[..., bytearray], seed: int, entrance: str
) -> None:
    path = mutated(kind, mutation, seed, tmp_path / "mutated.sound")
    ended = subprocess.run(
        [sys.executable, *ENTRANCES[entrance](path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert ended.returncode in (0, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    if ended.returncode == 2:
        assert str(path) in ended.stderr.splitlines()[-1]
        if entrance in ("infer", "features"):
            assert len(ended.stderr.splitlines()) == 1, ended.stderr
