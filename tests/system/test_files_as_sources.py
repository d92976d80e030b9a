"""Files with odd names, pipes as files, and files that are broken off, through every command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.wire import public
from tests.support.pipelines import BUNDLE, PATIENCE_S, ROOT, Running, comparable, offline

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def infer(path: str, *, stdin: bytes | None = None) -> tuple[int, list[str], str]:
    ended = subprocess.run(
        [sys.executable, "-m", "infer", path, "--json", "--bundle", str(BUNDLE)],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    return ended.returncode, ended.stdout.decode().splitlines(), ended.stderr.decode()


def fed(fifo: Path, content: bytes) -> threading.Thread:
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(content), daemon=True)
    writer.start()
    return writer


def test_a_name_that_is_not_utf_8(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    plain = clip(9.0)
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(plain.read_bytes())
    code, stderr, received = supervise(f"--source=file:{path}", "--speed=max").ended()
    assert code == 0, stderr
    assert received.stream() == offline(plain)
    assert "Traceback" not in stderr
    assert received.fresh(public.Info)[0].source.startswith("file:")
    code, lines, stderr = infer(str(path))
    assert code == 0, stderr
    assert len(lines) == len(offline(plain))


def test_pipes_as_files(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    plain = clip(9.0)
    expected, content = offline(plain), plain.read_bytes()
    writer = fed(tmp_path / "one", content)
    running = supervise(f"--source=file:{tmp_path}/one", "--speed=max")
    code, stderr, received = running.ended()
    writer.join()
    assert code == 0, stderr
    assert received.stream() == expected
    writer = fed(tmp_path / "two", content)
    assert len(infer(f"{tmp_path}/two")[1]) == len(expected)
    writer.join()
    assert len(infer("/dev/stdin", stdin=content)[1]) == len(expected)
    python = (sys.executable, "-m", "infer")
    ended = subprocess.run(
        ["bash", "-c", '"$@" <(cat "$0")', plain, *python, "--bundle", BUNDLE, "--json"],
        capture_output=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert len(ended.stdout.splitlines()) == len(expected), ended.stderr


def test_a_pipe_as_a_file_survives_a_killed_capture(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    plain = clip(9.0)
    writer = fed(tmp_path / "fifo", plain.read_bytes())
    running = supervise(f"--source=file:{tmp_path}/fifo")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    running.stages()["capture"].kill()
    code, stderr, received = running.ended()
    writer.join()
    assert code == 0, stderr
    assert received.stream() == offline(plain)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused(supervise: Supervise, device: str) -> None:
    code, stderr, _ = supervise(f"--source=file:{device}").ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert "is a device" in line
    code, _, stderr = infer(device)
    assert code == 2
    assert len(stderr.splitlines()) == 1


def test_results_before_a_break_are_the_same_offline_and_live(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    content = clip(20.0).read_bytes()
    path = tmp_path / "broken.wav"
    path.write_bytes(content[: len(content) * 2 // 3])
    code, lines, stderr = infer(str(path))
    assert code == 2
    (line,) = stderr.splitlines()
    assert "damaged after 13.33 s" in line
    code, stderr, received = supervise(f"--source=file:{path}", "--speed=max").ended()
    assert code == 2
    assert "damaged after 13.33 s" in stderr.splitlines()[-1]
    live = [comparable(m) for m in received.fresh(public.Result)]
    assert len(live) == sum('"utterance": true' not in line for line in lines)


def test_a_removed_ring_ends_the_pipeline_with_a_fault(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(40.0)}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    (segment,) = Path("/dev/shm").glob(f"sep.{running.process.pid}.*.main")
    segment.unlink()
    code, stderr, _ = running.ended()
    assert code == 1, stderr
    assert "Traceback" not in stderr
