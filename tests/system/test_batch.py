"""`infer --out`: equal to live, resumed after any kill, no input ends the run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from numpy.typing import NDArray

from speech_emotion import Pipeline
from speech_emotion.infer.batch.parts import TEMPORARY, name_hash
from speech_emotion.infer.batch.table import messages_of
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    PATIENCE_S,
    ROOT,
    Running,
    comparable,
    kill,
    runs,
    wait_until,
)

pq = pytest.importorskip("pyarrow.parquet")
Demo = tuple[NDArray[np.float32], int]


@dataclasses.dataclass
class Done:
    code: int
    stderr: str

    @property
    def lines(self) -> list[str]:
        return self.stderr.splitlines()


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "infer", "--bundle", str(BUNDLE), *map(str, words)]


def batch(*words: object, **options: Any) -> Done:
    done = subprocess.run(
        command(*words), capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, **options
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stderr)


def started(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, cwd=ROOT)


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def files_of(path: Path) -> dict[str, dict[str, Any]]:
    """The row `file` of each input, by its name."""
    return {row["file"]: row for row in rows_of(path) if row["kind"] == "file"}


def content_of(folder: Path) -> dict[str, str]:
    """Every file of a folder, with a hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def clips(tmp_path: Path, demo: Demo) -> Path:
    """Twelve clips of several formats, rates and lengths."""
    folder = tmp_path / "clips"
    (folder / "inner").mkdir(parents=True)
    samples, rate = demo
    formats = ("wav", "flac", "ogg", "mp3", "aiff", "w64")
    for k in range(12):
        part = samples[k * rate : (k * 3 + 5) * rate]
        place = folder / "inner" if k % 2 else folder
        path = place / f"clip{k:02}.{formats[k % 6]}"
        wide = np.stack([part] * (1 + k % 3), axis=1)
        soundfile.write(path, wide, (16000, 44100, 48000)[k % 3])
    return folder


def test_batch_live_and_library_are_equal(
    supervise: Callable[..., Running], clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "all.parquet"
    done = batch(clips, "--out", out, "--jobs", 2)
    assert done.code == 0, done.stderr
    table = pq.read_table(out)
    by_file: dict[str, list[Any]] = {}
    for name, message in messages_of(table):
        by_file.setdefault(name, []).append(message)
    pipeline = Pipeline(BUNDLE)
    assert sorted(by_file) == sorted(str(p) for p in clips.rglob("*.*"))
    for name, messages in by_file.items():
        assert messages == list(pipeline(name))
    for name in sorted(by_file)[:3]:
        code, stderr, received = supervise("--source", f"file:{name}", "--speed", "max").ended()
        assert code == 0, stderr
        assert received.stream() == [comparable(message) for message in by_file[name]]
    # The folder of parts is the same table, for every reader of Parquet folders.
    parts = pq.read_table(tmp_path / "all.parquet.parts")
    assert parts.schema.names == table.schema.names
    order = [("file", "ascending"), ("kind", "ascending"), ("seq", "ascending")]
    assert parts.sort_by(order).equals(table.sort_by(order))
    rows = files_of(out)
    assert all(row["error"] is None for row in rows.values())
    third = rows[str(clips / "clip02.ogg")]
    assert (third["source_rate"], third["channels"]) == (48000, 3)
    assert third["end"] == pytest.approx(9 * 16000 / 48000, abs=0.01)


def await_parts(parts: Path, number: int) -> None:
    wait_until(lambda: len(list(parts.glob("??/*.parquet"))) >= number, f"{number} parts")


def await_end(workers: list[psutil.Process]) -> None:
    wait_until(lambda: not any(map(runs, workers)), "the workers to die")


def endless(path: Path) -> Path:
    """Eight hours of sound without a block on the disk: a run with it ends by a signal only."""
    size = 8 * 3600 * 8000
    form = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", size)
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + form)
    os.truncate(path, 44 + size)
    return path


def test_killed_three_times_and_resumed_gives_the_same_bytes(clips: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    assert batch(clips, "--out", whole, "--jobs", 1).code == 0
    last = endless(clips / "last.wav")
    chance = random.Random(3)
    parts = Path(f"{killed}.parts")
    for turn in range(3):
        process = started(clips, "--out", killed, "--jobs", 2, *["--resume"][: turn > 0])
        await_parts(parts, turn * 3 + 1)
        time.sleep(chance.uniform(0.0, 0.05))
        workers = psutil.Process(process.pid).children()
        process.kill()
        process.communicate()
        await_end(workers)
    assert not killed.exists()
    last.unlink()
    done = batch(clips, "--out", killed, "--resume")
    assert done.code == 0
    assert "already done" in done.stderr
    assert killed.read_bytes() == whole.read_bytes()
    assert content_of(parts) == content_of(Path(f"{whole}.parts"))
    # Resumed once more: nothing is left to do, and nothing changes.
    again = batch(clips, "--out", killed, "--resume")
    assert "12 files, 12 already done, none with errors" in again.lines[-1]
    assert killed.read_bytes() == whole.read_bytes()


def test_shards_fill_the_same_folder(clips: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert batch(clips, "--out", whole).code == 0
    running = [started(clips, "--out", shared, "--shard", f"{k}/3", "--resume") for k in (1, 2, 3)]
    for process in running:
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, stderr
        assert "infer: 4 files" in stderr
    assert content_of(shared) == content_of(whole)
    # A last run without a shard only joins the parts.
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    shutil.copytree(shared, f"{one}.parts")
    assert "12 already done" in batch(clips, "--out", one, "--resume").stderr
    assert batch(clips, "--out", other).code == 0
    assert one.read_bytes() == other.read_bytes()


def test_progress_on_a_terminal(clips: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        command(clips, "--out", tmp_path / "out", "--jobs", 1),
        cwd=ROOT,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 4096):
            text += chunk
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0, text
    shown = text.decode()
    assert "of 12 files" in shown
    assert "times real time" in shown
    assert " left" in shown
    assert "infer: 12 files, none with errors" in shown.splitlines()[-1]


def test_a_changed_file_is_done_again_and_its_old_part_goes(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert batch(clips, "--out", out).code == 0
    before = content_of(out)
    changed = clips / "clip00.wav"
    samples, rate = soundfile.read(changed)
    soundfile.write(changed, samples[: 2 * rate], rate)
    os.utime(clips / "clip02.ogg")  # only touched
    done = batch(clips, "--out", out, "--resume")
    assert "12 files, 11 already done" in done.stderr
    after = content_of(out)
    assert len(after) == len(before)
    assert len(set(after) - set(before)) == 1
    assert files_of(out)[str(changed)]["end"] == 2.0


def test_a_part_that_a_power_failure_has_cut_is_written_again(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert batch(clips, "--out", out).code == 0
    before = content_of(out)
    one, other, *_ = sorted(out.glob("??/*.parquet"))
    one.write_bytes(b"")
    other.write_bytes(other.read_bytes()[:-100])
    assert "12 files, 10 already done" in batch(clips, "--out", out, "--resume").stderr
    assert content_of(out) == before


def test_ctrl_c_loses_the_files_at_hand_only(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    last = endless(clips / "last.wav")
    process = started(clips, "--out", out, "--jobs", 1)
    parts = Path(f"{out}.parts")
    await_parts(parts, 3)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("infer: interrupted; --resume continues")
    assert "Traceback" not in stderr
    assert not any(runs(worker) for worker in workers)
    assert not list(parts.rglob(f".*{TEMPORARY}"))
    assert not out.exists()
    last.unlink()
    assert batch(clips, "--out", out, "--resume").code == 0
    assert len(files_of(out)) == 12


@pytest.fixture
def long_clip(tmp_path: Path) -> Path:
    """A file that is not done before `shorten`."""
    return endless(tmp_path / "long.wav")


def shorten(path: Path) -> None:
    """Put a sound of four seconds in the place of a file; who reads the old one goes on."""
    other = path.with_name("other.wav")
    soundfile.write(other, np.zeros(32_000, np.int16), 8000)
    other.replace(path)


def busy_worker(out: Path, path: Path, but: set[int]) -> psutil.Process:
    """The worker that has begun the part of a file."""
    found: set[int] = set()

    def look() -> bool:
        drafts = out.glob(f"??/.{name_hash(str(path))}.*{TEMPORARY}")
        found.update({int(draft.name.rsplit(".", 3)[1]) for draft in drafts} - but)
        return bool(found)

    wait_until(look, "a worker that works")
    return psutil.Process(*found)


def test_a_worker_that_dies_is_replaced_and_the_file_read_again(
    long_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started(long_clip, "--out", out, "--jobs", 1)
    worker = busy_worker(out, long_clip, set())
    shorten(long_clip)
    kill(worker)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    assert files_of(out)[str(long_clip)]["end"] == 4.0
    assert not list(out.rglob(f".*{TEMPORARY}")) or batch(long_clip, "--out", out, "--resume")


def test_a_file_that_kills_every_worker_is_a_row(
    long_clip: Path, clips: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = started(long_clip, clips, "--out", out, "--jobs", 1)
    dead: set[int] = set()
    for _ in range(2):
        worker = busy_worker(out, long_clip, dead)
        dead.add(worker.pid)
        kill(worker)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert "killed by signal 9 (SIGKILL), twice" in stderr
    rows = files_of(out)
    assert len(rows) == 13
    assert "twice" in rows[str(long_clip)]["error"]
    assert [name for name, row in rows.items() if row["error"]] == [str(long_clip)]
    # It was no fault of the file: the next run tries it again.
    shorten(long_clip)
    done = batch(long_clip, clips, "--out", out, "--resume")
    assert done.code == 0
    assert "13 files, 12 already done, none with errors" in done.stderr
    assert files_of(out)[str(long_clip)]["error"] is None


def test_a_full_disk_ends_the_run_in_one_line(clips: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    out = tmp_path / "out"
    done = batch(clips, "--out", out, preexec_fn=limit)
    assert done.code == 1
    (line,) = done.lines
    assert "cannot be written (File too large); --resume continues" in line
    assert not list(out.rglob(f".*{TEMPORARY}"))
    assert batch(clips, "--out", out, "--resume").code == 0


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """A worker of `infer --out` on 192 kHz; a minute of it is 46 MB of float32."""

    def peak(minutes: int) -> float:
        path = tmp_path / f"{minutes}.flac"
        with soundfile.SoundFile(path, "w", 192_000, 1) as file:
            for _ in range(60 * minutes):
                file.write(np.zeros(192_000, np.int16))
        code = (
            "from tests.support.memory import peak_mib\n"
            "from speech_emotion.infer.batch.analysis import PartWriter\n"
            "from speech_emotion.infer.batch.setting import Setting\n"
            f"setting = Setting({str(BUNDLE)!r}, {str(tmp_path / f'out{minutes}')!r})\n"
            f"PartWriter(setting).process({str(path)!r}, [], lambda *_: None)\n"
            "print(peak_mib())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        )
        return float(done.stdout)

    short, long = peak(1), peak(8)
    assert long - short < 25
    assert long < 300


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.wav"], "nowhere.wav: no such file"),
        (["examples/demo.flac", "--jobs", "0"], "--jobs 0"),
        (["examples/demo.flac", "--shard", "3/2"], "--shard '3/2'"),
        (["examples/demo.flac", "--json"], "--json"),
        (
            ["examples/demo.flac", "--cluster", "somewhere"],
            "--cluster somewhere: no address",
        ),
        (["--manifest", "nowhere.txt"], "nowhere.txt: cannot be read"),
        ([], "nothing to analyse"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    done = batch(*words, "--out", tmp_path / "out")
    assert done.code == 2
    (line,) = done.lines
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_cluster_needs_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('as if it were not installed')")
    words = (DEMO, "--out", tmp_path / "out", "--cluster", "local")
    done = batch(*words, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.code == 2
    assert done.lines == [
        "infer: --cluster needs Ray: pip install 'speech-emotion-pipeline[archive,cluster]'"
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["a.wav", "b.wav"],
        ["a.wav", "--resume"],
        ["--manifest", "x"],
        ["a.wav", "--jobs=2"],
        ["a.wav", "--jobs=0"],
        ["examples"],
    ],
)
def test_several_recordings_need_an_output(words: list[str]) -> None:
    done = batch(*words)
    assert done.code == 2
    assert "--out DIR or --out FILE.parquet" in done.lines[0]


def test_an_output_of_another_format_is_refused(tmp_path: Path) -> None:
    done = batch("examples", "--out", tmp_path / "emotions.csv")
    assert done.code == 2
    assert "`speech-emotion export` makes other formats" in done.lines[0]
    assert not (tmp_path / "emotions.csv").exists()


def test_an_output_that_exists_is_kept(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("precious")
    done = batch(clips, "--out", out)
    assert done.code == 2
    assert "exists; --resume continues" in done.lines[0]
    assert out.read_text() == "precious"


def test_one_channel_of_two(tmp_path: Path, demo: Demo) -> None:
    samples, rate = demo
    both = np.stack([samples, np.zeros_like(samples)], axis=1)
    path = tmp_path / "call.wav"
    soundfile.write(path, both, rate)
    assert batch(path, "--out", tmp_path / "one.parquet", "--channel", 0).code == 0
    table = pq.read_table(tmp_path / "one.parquet")
    assert [m for _, m in messages_of(table)] == list(Pipeline(BUNDLE)(samples, rate=rate))
    done = batch(path, "--out", tmp_path / "other.parquet", "--channel", 2)
    assert done.code == 4
    assert "no channel 2; allowed: 0 to 1" in done.stderr
