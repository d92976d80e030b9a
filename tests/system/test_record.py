"""A recording replays to identical results, gaps included."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import soxr

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.recording.reader import open_recording
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from tests.support.pipelines import ROOT, Running, comparable, more_results, offline, wait_until
from tests.support.pulse import VirtualMicrophone, installed

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def recorded_messages(folder: Path) -> list[dict[str, object]]:
    """Results and utterances of a recording as comparable maps."""
    rows = []
    for line in (folder / "messages.jsonl").read_text().splitlines():
        table = json.loads(line)
        kind = {"result": public.Result, "utterance": public.Utterance}.get(table.pop("topic"))
        if kind is not None:
            table.pop("v")
            rows.append(comparable(kind(**table)))
    return rows


def test_a_resampled_file_replays(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    samples, rate = soundfile.read(clip(12.0), dtype="float32")
    path = tmp_path / "odd.wav"
    soundfile.write(path, soxr.resample(samples, rate, 22050), 22050, subtype="FLOAT")
    folder = tmp_path / "recordings"
    code, stderr, live = supervise(f"--source=file:{path}", f"--record={folder}").ended()
    assert code == 0, stderr
    assert "RECORDING" in stderr
    recording = folder / "main"
    assert recorded_messages(recording) == live.stream()
    assert offline(recording) == live.stream()
    code, stderr, replayed = supervise(f"--source=replay:{recording}", "--speed=max").ended()
    assert code == 0, stderr
    assert replayed.stream() == live.stream()


@pytest.mark.skipif(not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it")
def test_a_microphone_with_a_gap_replays(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    with VirtualMicrophone() as mic:
        running = supervise("--source=mic", f"--record={folder}", env=mic.env)
        running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
        player = mic.play(clip(12.0))
        running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 8)
        running.stages()["capture"].kill()
        running.subscriber.wait_for(lambda r: any(x.lost for x in r.fresh(public.Result)))
        player.wait()
        running.process.terminate()
        code, stderr, live = running.ended()
    assert code == 0, stderr
    assert any(result.state == "gap" for result in live.fresh(public.Result))
    assert any(result.state == "speech" for result in live.fresh(public.Result))
    recording = folder / "main"
    assert recorded_messages(recording) == live.stream()
    assert offline(recording) == live.stream()
    code, stderr, replayed = supervise(f"--source=replay:{recording}", "--speed=max").ended()
    assert code == 0, stderr
    assert replayed.stream() == live.stream()


def test_nothing_is_recorded_by_default(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    path = clip(3.0)
    before = set(tmp_path.rglob("*"))
    assert supervise(f"--source=file:{path}", "--speed=max").ended()[0] == 0
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.costly_cases
@pytest.mark.parametrize("words", ["no such folder", "is not a recording", "is damaged"])
def test_a_folder_that_is_no_recording(supervise: Supervise, tmp_path: Path, words: str) -> None:
    folder = tmp_path / "recording"
    if words != "no such folder":
        folder.mkdir()
    if words == "is damaged":
        (folder / "tape.jsonl").write_text("{")
    code, stderr, _ = supervise(f"--source=replay:{folder}").ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert str(folder) in line
    assert words in line


def test_a_stage_alone_is_profiled_on_a_recording(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    folder, profile = tmp_path / "recordings", tmp_path / "infer.prof"
    code, stderr, _ = supervise(f"--source=file:{clip(3.0)}", f"--record={folder}").ended()
    assert code == 0, stderr
    subprocess.run(
        [sys.executable, "-m", "infer", str(folder / "main"), "--profile", str(profile)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert profile.stat().st_size > 0


def recorded_samples(folder: Path) -> np.ndarray:
    return read_recording(str(folder), 16000).samples


def recorded_until(folder: Path) -> int:
    """Samples of a recording that is still being written; 0 before it can be read."""
    with contextlib.suppress(UserError):
        return open_recording(folder, 16000).length
    return 0


def test_at_full_speed_no_sample_and_no_message_is_missing(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    """Many times the ring's length, with a recorder that is killed twice meanwhile."""
    speech, rate = soundfile.read(clip(50.0), dtype="float32")
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(speech, 12), rate)
    folder = tmp_path / "recordings"
    running = supervise(f"--source=file:{path}", "--speed=max", f"--record={folder}")
    for seen in (60, 400):
        running.subscriber.wait_for(more_results(seen - 1))
        if (recorder := running.stages().get("record")) is not None:
            recorder.kill()
    code, stderr, live = running.ended()
    assert code == 0, stderr
    assert np.array_equal(
        recorded_samples(folder / "main"), read_recording(str(path), rate).samples
    )
    counters = live.fresh(public.Health)[-1].counters
    assert counters["record_lost"] == 0
    rows = recorded_messages(folder / "main")
    published = [row for row in live.stream() if row["kind"] == "result"]
    written = [row for row in rows if row["kind"] == "result"]
    assert len(published) - len(written) == counters["record_messages_lost"]
    assert [name.name for name in folder.iterdir()] == ["main"]


def test_recorder_and_history_miss_nothing_while_they_restart(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    folder, history = tmp_path / "recordings", tmp_path / "history.sqlite"
    running = supervise(f"--source=file:{clip(50.0)}", f"--record={folder}", f"--history={history}")
    for seen in (6, 14, 22):
        running.subscriber.wait_for(more_results(seen - 1))
        for name in ("record", "history"):
            if (stage := running.stages().get(name)) is not None:
                stage.kill()
    running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 30)
    running.process.terminate()
    code, stderr, live = running.ended()
    assert code == 0, stderr
    counters = live.fresh(public.Health)[-1].counters
    names = ("record_lost", "record_messages_lost", "history_lost", "history_unwritten")
    assert [counters.get(name, 0) for name in names] == [0, 0, 0, 0]
    assert recorded_messages(folder / "main") == live.stream()
    results, utterances = live.fresh(public.Result), live.fresh(public.Utterance)
    with HistoryReader(history) as reader:
        rows = reader.windows("main", 0.0, 1e11, 10**6)["rows"]
        spoken = reader.utterances("main", 0.0, 1e11)
    assert [row[0] for row in rows] == [one.seq for one in results]
    assert [one["time"] for one in spoken] == [one.time for one in utterances]
    assert len(utterances) >= 2


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("speed", "fault"),
    [("realtime", signal.SIGKILL), ("realtime", signal.SIGSTOP), ("max", signal.SIGKILL)],
)
def test_recorder_and_history_that_die_at_the_end_are_waited_for(
    supervise: Supervise, clip: Clip, tmp_path: Path, speed: str, fault: signal.Signals
) -> None:
    folder, history = tmp_path / "recordings", tmp_path / "history.sqlite"
    path = clip(50.0, repeat=1 if speed == "realtime" else 200)
    running = supervise(
        *(f"--source=file:{path}", f"--speed={speed}"),
        *(f"--record={folder}", f"--history={history}"),
    )
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 8)
    for name in ("record", "history"):
        wait_until(lambda n=name: n in running.stages(), name)  # type: ignore[misc]
        running.stages()[name].send_signal(fault)
    running.process.terminate()
    code, stderr, live = running.ended()
    assert code == 0, stderr
    results = live.fresh(public.Result)
    counters = live.fresh(public.Health)[-1].counters
    heard = recorded_samples(folder / "main")
    assert len(heard) >= results[-1].end
    assert offline(folder / "main")[: len(results)] == live.stream()[: len(results)]
    rows = [row for row in recorded_messages(folder / "main") if row["kind"] == "result"]
    assert len(results) - len(rows) == counters["record_messages_lost"]
    assert counters["record_lost"] == 0
    with HistoryReader(history) as reader:
        kept = reader.windows("main", 0.0, 1e11, 10**6)["rows"]
    assert len(results) - len(kept) == counters["history_lost"]


KILLED_WHILE_THEY_END = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
from speech_emotion import supervisor
from speech_emotion.supervision.managed_process import ManagedProcess as Process
from speech_emotion.supervision.pipeline import Pipeline
processes, killed, stop, start = [], set(), Process.stop, Pipeline.__init__

def begin(self, *arguments, **more):
    start(self, *arguments, **more)
    processes.extend(self._processes)

def end(process):
    writers = [p for p in processes if p.name in ("record", "history") and p.child]
    if process.kind.capture:
        for writer in writers:
            os.kill(writer.child.pid, signal.SIGSTOP)
    stop(process)
    if process in writers and process.name not in killed:
        killed.add(process.name)
        os.kill(process.child.pid, signal.SIGKILL)

Pipeline.__init__, Pipeline._await_restarts, Process.stop = begin, lambda *_: None, end
sys.exit(supervisor.main())
"""
"""Recorder and history writer are stopped with the sound, and killed when they are to end."""


def test_recorder_and_history_that_are_killed_while_they_end_end_again(
    clip: Clip, tmp_path: Path
) -> None:
    folder, history = tmp_path / "recordings", tmp_path / "history.sqlite"
    running = Running(
        *(f"--source=file:{clip(50.0, repeat=20)}", "--speed=max"),
        *(f"--record={folder}", f"--history={history}"),
        program=("-c", KILLED_WHILE_THEY_END),
    )
    try:
        running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 8)
        running.process.terminate()
        code, stderr, live = running.ended()
    finally:
        running.end()
    assert code == 0, stderr
    for name in ("record", "history"):
        assert f"{name}: killed while it ended; it is started again" in stderr
    results, counters = live.fresh(public.Result), live.fresh(public.Health)[-1].counters
    assert len(recorded_samples(folder / "main")) >= results[-1].end
    rows = [row for row in recorded_messages(folder / "main") if row["kind"] == "result"]
    assert len(results) - len(rows) == counters["record_messages_lost"]
    with HistoryReader(history) as reader:
        kept = reader.windows("main", 0.0, 1e11, 10**6)["rows"]
    assert len(results) - len(kept) == counters["history_lost"]


def test_a_recording_of_a_pipeline_that_was_killed_replays(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    running = supervise(f"--source=file:{clip(40.0)}", f"--record={folder}")
    recording = folder / "main"
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 12)
    wait_until(lambda: recorded_until(recording) >= 10 * 8000 + 16000, "the recorder")
    processes = [psutil.Process(running.process.pid), *running.stages().values()]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    running.process.communicate()
    live = running.subscriber.finish().stream()
    again = offline(recording)
    results = [row for row in again if row["kind"] == "result"]
    assert len(results) >= 10
    assert again[: len(live)][:-3] == live[: len(again)][:-3]
    code, stderr, replayed = supervise(f"--source=replay:{recording}", "--speed=max").ended()
    assert code == 0, stderr
    assert replayed.stream() == again


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, stderr, _ = supervise(
        f"--source=file:{clip(3.0)}", f"--record={tmp_path}/file/inside"
    ).ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert "cannot be written" in line


def test_a_recorder_that_cannot_write_never_ends_the_pipeline(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings"
    running = supervise(f"--source=file:{clip(12.0)}", f"--record={folder}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    # A full disk: no file may grow.
    recorder = running.stages()["record"]
    resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    seen = len(running.received.fresh(public.Result))
    running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= seen + 6)
    assert recorder.is_running()
    resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    code, stderr, live = running.ended()
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert stderr.count("cannot be written") == 1
    assert [name.name for name in folder.iterdir()] == ["main"]
    assert recorded_messages(folder / "main") == live.stream()
    assert offline(folder / "main") == live.stream()
