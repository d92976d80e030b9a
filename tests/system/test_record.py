"""A recording replays to identical results, gaps included."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import soxr

from speech_emotion.common.wire import public
from tests.support.pipelines import ROOT, Running, comparable, offline
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
