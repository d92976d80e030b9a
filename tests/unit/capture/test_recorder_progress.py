"""A recorder that restarts late in a long run: what it reads, and what stays counted."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.recording import progress as recording_progress
from speech_emotion.capture.recording.progress import Progress, read_progress, recorded_end, run_of
from speech_emotion.capture.recording.reader import (
    MESSAGES,
    TIMELINE,
    open_recording,
    readable_frames,
    segment_name,
)
from speech_emotion.capture.recording.recorder import Writer
from speech_emotion.capture.recording.stream_recorder import StreamRecorder
from speech_emotion.common.ring.segment import create_ring
from tests.support.pipelines import PATIENCE_S
from tests.unit.capture.test_stream_recorder import (
    HOP,
    RATE,
    Run,
    in_a_process_that_is_killed,
    record,
    recorder,
    result,
)


@pytest.fixture
def run() -> Iterator[Run]:
    with create_ring(
        "progress", sample_rate=RATE, capacity=10 * RATE, run=secrets.token_hex(8)
    ) as ring:
        one = Run(ring)
        yield one
        one.writer.close()


def record_and_die(run: Run, folder: Path, seqs: list[int]) -> None:
    """A recorder that receives some of the results, writes, and is killed."""

    def work() -> None:
        recording = recorder(run, folder)
        for seq in seqs:
            recording.message(result(seq))
        recording.turn(time.monotonic())

    in_a_process_that_is_killed(work)


def test_losses_stay_counted_over_restarts(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "main"
    run.speak(4.0)
    record_and_die(run, folder, [0, 1, 4, 6])
    assert read_progress(folder) == Progress(next_seq=7, lost_messages=3)
    run.speak(20.0)  # twice as much as the ring holds
    record_and_die(run, folder, [46])
    second = read_progress(folder)
    assert (second.next_seq, second.lost_messages) == (47, 3 + 39)
    assert second.lost > 10 * RATE
    third = recorder(run, folder)
    assert (third.lost, third.lost_messages) == (second.lost, second.lost_messages)
    record(run, third, 1.0)
    third.finish()
    assert (third.lost, third.lost_messages) == (second.lost, second.lost_messages)
    ((start, end),) = open_recording(folder, RATE).gaps
    assert end - start == third.lost


def test_the_first_windows_of_a_run_are_counted_too(run: Run, tmp_path: Path) -> None:
    recording = recorder(run, tmp_path / "main")
    run.speak(4.0)
    recording.message(result(3))
    assert recording.lost_messages == 3
    recording.finish()


def test_a_restart_reads_the_newest_segment_and_the_end_of_the_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month of recording: 43,200 segments, 5 million messages; here a tenth of a day's files."""
    folder = tmp_path / "main"
    run.speak(4.0)
    record_and_die(run, folder, [0, 1, 2, 3, 4, 5])
    (segment,) = folder.glob("audio.*")
    minutes = 2000
    for minute in range(1, minutes):
        os.link(segment, folder / segment_name(60 * RATE * minute))
    line = json.dumps({"topic": "result", "seq": 5, "skipped": 0}).encode() + b"\n"
    with (folder / MESSAGES).open("ab") as file:
        file.write(line * 200_000)
    with (folder / TIMELINE).open("a") as lines:
        for seq in range(6, minutes):
            lines.write(json.dumps(Progress(10, 11, seq, 12).row()) + "\n")
    with (folder / MESSAGES).open("a") as lines:
        for seq in (minutes - 1, minutes + 3):
            lines.write(json.dumps({"topic": "result", "seq": seq, "skipped": 0}) + "\n")
    opened, read = [], 0
    measure, loads = readable_frames, json.loads

    def counted_measure(path: Path) -> int:
        opened.append(path)
        return measure(path)

    def counted_loads(text: bytes) -> object:
        nonlocal read
        read += 1
        return loads(text)

    monkeypatch.setattr(recording_progress, "readable_frames", counted_measure)
    monkeypatch.setattr(json, "loads", counted_loads)
    recording = recorder(run, folder)
    assert opened == [folder / segment_name(60 * RATE * (minutes - 1))]
    assert read < 5000
    assert recording.position > 60 * RATE * (minutes - 1)
    assert (recording.lost, recording.lost_messages) == (11, 12 + 3)
    recording.finish()


def test_a_gap_message_announces_no_sample(run: Run, tmp_path: Path) -> None:
    """Its last windows overlap the sound after the gap, which is not there yet."""
    recording = recorder(run, tmp_path / "main")
    record(run, recording, 12.0)  # the ring is full: unwritten places hold old sound
    gap = run.writer.index
    run.writer.gap(20 * RATE)
    windows = 20 * RATE // HOP
    seq = gap // HOP - 1
    first = dataclasses.replace(result(seq), skipped=windows, end=run.writer.index + HOP)
    run.samples.append(np.zeros(20 * RATE, np.float32))
    recording.message(first)
    recording.turn(time.monotonic())
    record(run, recording, 4.0)
    recording.finish()
    assert recording.lost == 0
    stored = read_recording(str(tmp_path / "main"), RATE)
    assert np.array_equal(stored.samples, run.written)


def test_a_folder_that_is_no_recording_has_no_run(tmp_path: Path) -> None:
    assert run_of(tmp_path) is None
    assert recorded_end(tmp_path) == 0
    for text in ("", "{", "[]", "null", '{"rate": 1}'):
        (tmp_path / TIMELINE).write_text(text)
        assert run_of(tmp_path) is None


def test_dropped_messages_are_counted_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speech_emotion.capture.recording import recorder as record_stage

    monkeypatch.setattr(record_stage, "MAX_WAITING", 0)
    monkeypatch.setattr(record_stage, "FINISH_S", PATIENCE_S)
    recording: StreamRecorder = recorder(run, tmp_path / "main")
    writer = Writer({"main": recording})
    writer.put(result(0))
    writer.put(result(1))
    monkeypatch.setattr(record_stage, "MAX_WAITING", 100)
    writer.put(result(2))
    assert writer.finish()
    assert (writer.dropped, recording.lost_messages) == (0, 2)
