"""Recordings that land in a folder are processed once, also after restarts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speech_emotion.common.wire import public
from tests.support.pipelines import ROOT, Running, offline, wait_until

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def ledger(folder: Path) -> list[dict[str, Any]]:
    path = folder / ".speech-emotion.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def done(folder: Path) -> dict[str, list[int]]:
    """Spans of the recordings as they are now: one that grows no more for 3 s counts as complete,
    and as another one when it grows again."""
    return {
        row["file"]: row["done"]
        for row in ledger(folder)
        if "done" in row and row["size"] == (folder / row["file"]).stat().st_size
    }


def stop(running: Running) -> list[public.Result]:
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    return received.fresh(public.Result)


def test_each_recording_is_processed_once_and_as_if_alone(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    first, second = clip(9.0), clip(6.0, start=11.0, name="other")
    shutil.copy(first, folder / "a.wav")
    (folder / "broken.wav").write_bytes(b"no sound")
    (folder / "notes.txt").write_text("no recording")
    running = supervise(f"--source=watch:{folder}")
    wait_until(lambda: "a.wav" in done(folder), "the first recording")
    health = running.received.fresh(public.Health)
    with (folder / "b.wav").open("wb") as file:  # lands slowly
        content = second.read_bytes()
        for at in range(0, len(content), 1 << 16):
            file.write(content[at : at + (1 << 16)])
            file.flush()
    wait_until(lambda: {"a.wav", "b.wav"} <= set(done(folder)), "the second recording")
    wait_until(
        lambda: running.received.fresh(public.Health)[-1].streams[0].state == "ended", "its end"
    )
    results = stop(running)
    assert [row["file"] for row in ledger(folder) if "refused" in row] == ["broken.wav"]
    spans = done(folder)
    for name, path in (("a.wav", first), ("b.wav", second)):
        start, end = spans[name]
        assert end - start == soundfile.info(path).frames
        alone = [row for row in offline(path) if row["kind"] == "result"]
        inside = [row for row in results if start <= row.start and row.end <= end]
        assert len(inside) == len([r for r in alone if r["end"] - r["start"] == 16000])
        assert [row.rms_db for row in inside] == [row["rms_db"] for row in alone[: len(inside)]]
    assert health

    before = ledger(folder)
    again = supervise(f"--source=watch:{folder}")
    wait_until(lambda: len(again.received.fresh(public.Health)) >= 6, "some seconds")
    assert stop(again) == []
    assert len(done(folder)) == 2
    assert ledger(folder) == before


def test_a_killed_capture_continues_its_recording(supervise: Supervise, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0.0, 0.05, 200 * 16000).astype(np.float32)
    path = tmp_path / "long.wav"
    soundfile.write(path, noise, 16000)
    shutil.copy(path, folder / "long.wav")
    running = supervise(f"--source=watch:{folder}")
    running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 40)
    running.stages()["capture"].kill()
    wait_until(lambda: "long.wav" in done(folder), "the recording", 100.0)
    results = stop(running)
    start, end = done(folder)["long.wav"]
    assert (start, end) == (0, len(noise))
    inside = [row for row in results if row.end <= end]
    assert [row.seq for row in inside] == list(range(len(inside)))
    assert not any(row.lost for row in inside)
    assert len([row for row in ledger(folder) if "begin" in row]) == 1


def test_a_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "capture", "--source", f"watch:{tmp_path}/nowhere"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "no such folder" in line
