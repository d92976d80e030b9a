"""Recordings of a killed recorder, of a full disk, of a removed folder, and late in a long run."""

from __future__ import annotations

import itertools
import json
import os
import resource
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.recording import stream_recorder
from speech_emotion.capture.recording.reader import RecordingFile, open_recording
from speech_emotion.capture.recording.stream_recorder import RETRY_S, StreamRecorder
from speech_emotion.capture.samples import quantize
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.wire import public

RATE = 16000
HOP, WINDOW = 8000, 16000
LATE = 3 * 24 * 3600 * RATE
"""Three days into a run."""

Samples = NDArray[np.float32]


class Run:
    """A stream whose results announce its samples, and every sample that was written."""

    def __init__(self, ring: RingOwner) -> None:
        self.ring = ring
        self.writer = RingWriter.attach(ring.name)
        self.samples: list[Samples] = []
        self.start = 0
        self._rng = np.random.default_rng(0)

    def begin_at(self, index: int) -> None:
        """As if the stream had run for long: the samples before `index` are missing."""
        self.writer.gap(index)
        self.start = index

    def speak(self, seconds: float) -> list[public.Result]:
        """Write samples; the results of the windows that they complete."""
        before = self.writer.index
        samples = quantize(self._rng.normal(0.0, 0.1, round(seconds * RATE)).astype(np.float32))
        for block in np.array_split(samples, max(1, round(10 * seconds))):
            self.writer.write(block)
        self.samples.append(samples)

        def complete(position: int) -> int:
            return max(0, 1 + (position - WINDOW) // HOP)

        return [result(k) for k in range(complete(before), complete(self.writer.index))]

    @property
    def written(self) -> Samples:
        return np.concatenate(self.samples)


def result(seq: int) -> public.Result:
    return public.Result(
        stream="main", run="0" * 16, seq=seq, start=seq * HOP, end=seq * HOP + WINDOW, rate=RATE,
        time=None, state="silence", emotion=None, confidence=None, probabilities=None,
        smoothed=None, reason=None, rms_db=-60.0, lost=0, skipped=0, timing_ms=None, bundle="b",
    )  # fmt: skip


@pytest.fixture
def run() -> Iterator[Run]:
    with create_ring(
        "recorded", sample_rate=RATE, capacity=10 * RATE, run=secrets.token_hex(8)
    ) as ring:
        one = Run(ring)
        yield one
        one.writer.close()


def recorder(run: Run, folder: Path) -> StreamRecorder:
    return StreamRecorder(folder, RingReader.attach(run.ring.name))


def record(run: Run, recording: StreamRecorder, seconds: float) -> None:
    for _ in range(round(2 * seconds)):
        for message in run.speak(0.5):
            recording.message(message)
        recording.turn(time.monotonic())


def in_a_process_that_is_killed(work: Callable[[], None]) -> None:
    """Run something in a child that then gets SIGKILL: no buffer is flushed, no file closed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_recorder_killed_late_in_a_run_continues(run: Run, tmp_path: Path) -> None:
    run.begin_at(LATE)
    messages = run.speak(2.0)
    folder = tmp_path / "main"

    def first() -> None:
        recording = recorder(run, folder)
        for message in messages:
            recording.message(message)
        recording.turn(time.monotonic())

    in_a_process_that_is_killed(first)
    second = recorder(run, folder)
    record(run, second, 6.0)
    second.finish()
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert sum(sizes) < 3 * len(run.written)  # it wrote no silence for three days
    assert folders(tmp_path) == ["main"]
    stored = open_recording(folder, RATE)
    assert stored.length == run.writer.index
    assert stored.gaps == [[0, LATE]]
    assert second.lost == 0
    file = RecordingFile(stored)
    file.seek(LATE)
    blocks = []
    while len(block := file.read(4096)):
        blocks.append(block[:, 0])
    assert np.array_equal(np.concatenate(blocks), run.written)


def test_a_killed_recorder_leaves_a_recording_that_can_be_read(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "main"
    in_a_process_that_is_killed(lambda: record(run, recorder(run, folder), 5.0))
    stored = read_recording(str(folder), RATE)
    assert stored.damage is None
    assert len(stored.samples) > 4 * RATE
    with RingReader.attach(run.ring.name) as reader:
        written = np.empty(len(stored.samples), np.float32)
        assert reader.read(0, written, reader.index)
    assert np.array_equal(stored.samples, written)


def test_a_recorder_killed_again_and_again_loses_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "main"
    for _ in range(4):
        messages = run.speak(1.7)

        def work(messages: list[public.Result] = messages) -> None:
            recording = recorder(run, folder)
            for message in messages:
                recording.message(message)
            recording.turn(time.monotonic())

        in_a_process_that_is_killed(work)
    final = recorder(run, folder)
    final.finish()
    assert final.lost == 0
    stored = read_recording(str(folder), RATE)
    assert stored.gaps == []
    assert np.array_equal(stored.samples, run.written)
    rows = [json.loads(line) for line in (folder / "messages.jsonl").read_text().splitlines()]
    assert [row["seq"] for row in rows] == list(range(len(rows)))


def test_incomplete_lines_of_a_killed_recorder_are_dropped(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "main"
    in_a_process_that_is_killed(lambda: record(run, recorder(run, folder), 2.0))
    for name in ("tape.jsonl", "messages.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"gap": [1')
    assert read_recording(str(folder), RATE).gaps == []
    second = recorder(run, folder)
    record(run, second, 2.0)
    second.finish()
    for name in ("tape.jsonl", "messages.jsonl"):
        for line in (folder / name).read_text().splitlines():
            json.loads(line)


def test_samples_are_written_in_segments(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_recorder, "SEGMENT_S", 2.0)
    recording = recorder(run, tmp_path / "main")
    record(run, recording, 9.0)
    recording.finish()
    stored = open_recording(tmp_path / "main", RATE)
    assert len(stored.segments) == 5
    assert np.array_equal(read_recording(str(tmp_path / "main"), RATE).samples, run.written)


def test_overwritten_samples_are_counted_and_declared(run: Run, tmp_path: Path) -> None:
    recording = recorder(run, tmp_path / "main")
    record(run, recording, 2.0)
    last = run.speak(30.0)[-1]
    recording.message(last)
    recording.turn(time.monotonic())
    record(run, recording, 2.0)
    recording.finish()
    stored = read_recording(str(tmp_path / "main"), RATE)
    assert len(stored.samples) == run.writer.index
    ((start, end),) = stored.gaps
    assert end - start == recording.lost > 15 * RATE
    assert not stored.samples[start:end].any()
    assert np.array_equal(stored.samples[:start], run.written[:start])
    assert np.array_equal(stored.samples[end:], run.written[end:])
    assert recording.lost_messages == last.seq - 3


def test_without_results_the_ring_is_recorded_all_the_same(run: Run, tmp_path: Path) -> None:
    recording = recorder(run, tmp_path / "main")
    run.speak(3.0)
    now = time.monotonic()
    recording.turn(now + 1.0)
    recording.turn(now + 2.0)
    assert recording.position == 3 * RATE
    recording.finish()


def test_a_full_disk_is_waited_for(run: Run, tmp_path: Path) -> None:
    """The limit of the file size stands for a full disk: a write fails, and later succeeds."""
    recording = recorder(run, tmp_path / "main")
    record(run, recording, 2.0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        record(run, recording, 3.0)
        assert recording.failing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    recording.turn(time.monotonic() + 2 * RETRY_S)
    assert not recording.failing
    record(run, recording, 2.0)
    recording.finish()
    assert (recording.lost, recording.lost_messages) == (0, 0)
    assert folders(tmp_path) == ["main"]
    stored = read_recording(str(tmp_path / "main"), RATE)
    assert stored.gaps == []
    assert np.array_equal(stored.samples, run.written)
    rows = [
        json.loads(line) for line in (tmp_path / "main" / "messages.jsonl").read_text().splitlines()
    ]
    assert [row["seq"] for row in rows] == list(range(len(rows)))


def test_a_disk_that_stays_full_loses_what_the_ring_overwrites(run: Run, tmp_path: Path) -> None:
    recording = recorder(run, tmp_path / "main")
    record(run, recording, 2.0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        for _ in range(20):
            for message in run.speak(1.0):
                recording.message(message)
            recording.turn(time.monotonic() + 100.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    recording.turn(time.monotonic() + 200.0)
    recording.finish()
    assert recording.lost > 5 * RATE
    assert folders(tmp_path) == ["main"]
    stored = read_recording(str(tmp_path / "main"), RATE)
    assert sum(end - start for start, end in stored.gaps) == recording.lost
    assert len(stored.samples) == run.writer.index
    for (_, start), (end, _) in itertools.pairwise([[0, 0], *stored.gaps, [run.writer.index, 0]]):
        assert np.array_equal(stored.samples[start:end], run.written[start:end])


def test_a_folder_that_is_removed_is_created_again(run: Run, tmp_path: Path) -> None:
    recording = recorder(run, tmp_path / "main")
    record(run, recording, 2.0)
    shutil.rmtree(tmp_path / "main")
    now = time.monotonic()
    recording.turn(now + 2 * RETRY_S)
    recording.turn(now + 4 * RETRY_S)
    assert not recording.failing
    for message in run.speak(2.0):
        recording.message(message)
    recording.turn(now + 4 * RETRY_S)
    recording.finish()
    assert open_recording(tmp_path / "main", RATE).length == run.writer.index


def test_another_run_gets_another_folder(run: Run, tmp_path: Path) -> None:
    first = recorder(run, tmp_path / "main")
    record(run, first, 1.0)
    first.finish()
    with create_ring("other", sample_rate=RATE, capacity=10 * RATE, run="1" * 16) as ring:
        other = Run(ring)
        second = recorder(other, tmp_path / "main")
        record(other, second, 1.0)
        second.finish()
        other.writer.close()
    assert folders(tmp_path) == ["main", "main.2"]


def test_a_recording_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    import soundfile

    samples = np.random.default_rng(0).normal(0.0, 0.1, RATE).astype(np.float32)
    soundfile.write(tmp_path / "audio.flac", samples, RATE, subtype="PCM_24")
    (tmp_path / "tape.jsonl").write_text('{"rate": 16000, "run": "0"}\n{"gap": [10, 20]}\n')
    stored = read_recording(str(tmp_path), RATE)
    assert stored.gaps == [[10, 20]]
    assert len(stored.samples) == RATE
