"""`infer --cluster`: two nodes of Ray on this machine; a worker and a node die in the middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from speech_emotion.common.paths import DEMO_CLIP
from tests.support.pipelines import BUNDLE, ROOT, wait_until

pytest.importorskip("ray", reason="the extra `cluster` (Ray) is not installed")
pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
PATIENCE_S = 240.0


class Node:
    """A node with one processor: `ray start`, and all that it starts."""

    def __init__(self, *words: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        common = [
            "--num-cpus=1",
            "--object-store-memory=80000000",
            "--block",
            "--disable-usage-stats",
        ]
        self._process = subprocess.Popen(
            [str(ray), "start", *common, "--node-ip-address=127.0.0.1", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **QUIET},
            start_new_session=True,
        )

    def workers(self) -> list[psutil.Process]:
        """Its processes that analyse."""
        return [one for one in self._all() if "Analyst" in " ".join(one.cmdline())]

    def kill(self) -> None:
        """End it as a power failure does."""
        processes = self._all()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=20)

    def _all(self) -> list[psutil.Process]:
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


@pytest.fixture
def nodes() -> Iterator[tuple[str, Node, Node]]:
    """The address of a cluster, and its two nodes."""
    with socket.socket() as free, socket.socket() as other_free:
        for one in (free, other_free):
            one.bind(("127.0.0.1", 0))
        port, client_port = free.getsockname()[1], other_free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a longer path does not fit its sockets
    address = f"127.0.0.1:{port}"
    head = Node(
        *("--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"),
        f"--ray-client-server-port={client_port}",
    )
    other: Node | None = None
    try:
        wait_until(lambda: _answers(port), "the head node", PATIENCE_S)
        other = Node(f"--address={address}")
        yield address, head, other
    finally:
        for node in (other, head):
            if node is not None:
                node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Short clips, and files that take a second each."""
    folder = tmp_path / "in"
    folder.mkdir()
    samples, rate = soundfile.read(DEMO_CLIP, dtype="float32")
    for k in range(12):
        soundfile.write(folder / f"clip{k:02}.flac", samples[k * rate : (k + 9) * rate], rate)
    with soundfile.SoundFile(folder / "long00.flac", "w", 192_000, 2) as file:
        for _ in range(100):
            file.write(np.zeros((192_000, 2), np.int16))
    for k in range(1, 14):
        os.link(folder / "long00.flac", folder / f"long{k:02}.flac")
    (folder / "damaged.flac").write_bytes((folder / "clip00.flac").read_bytes()[:9000])
    return folder


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infer", "--bundle", str(BUNDLE), *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **QUIET}
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stderr


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_worker_and_a_node_die_and_the_result_has_the_same_bytes(
    nodes: tuple[str, Node, Node], recordings: Path, tmp_path: Path
) -> None:
    address, head, other = nodes
    whole, disturbed = tmp_path / "whole.parquet", tmp_path / "disturbed.parquet"
    code, stderr = ended(started(recordings, "--out", whole))
    assert code == 4, stderr  # the damaged one

    wait_until(lambda: len(other._all()) > 2, "the second node", PATIENCE_S)
    process = started(recordings, "--out", disturbed, "--cluster", address)
    parts = Path(f"{disturbed}.parts")

    def done(count: int) -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        return len(list(parts.glob("??/*.parquet"))) >= count

    wait_until(lambda: done(14) and head.workers() and other.workers(), "long ones", PATIENCE_S)
    (worker,) = head.workers()
    worker.send_signal(signal.SIGKILL)
    wait_until(lambda: done(18), "some more", PATIENCE_S)
    other.kill()
    code, stderr = ended(process)
    assert code == 4, stderr
    assert "a cluster of 2 machines, 2 processors" in stderr
    assert "27 files, 1 with errors" in stderr.splitlines()[-1]
    assert disturbed.read_bytes() == whole.read_bytes()
    assert content_of(parts) == content_of(Path(f"{whole}.parts"))


def test_a_cluster_of_this_machine_alone(recordings: Path, tmp_path: Path) -> None:
    clips = sorted(recordings.glob("clip0[0-4]*"))
    here, cluster = tmp_path / "here.parquet", tmp_path / "cluster.parquet"
    assert ended(started(*clips, "--out", here))[0] == 0
    code, stderr = ended(started(*clips, "--out", cluster, "--cluster", "local"))
    assert code == 0, stderr
    assert "a cluster of 1 machine, " in stderr
    assert cluster.read_bytes() == here.read_bytes()


def test_no_cluster_is_one_line(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stderr = ended(started(recordings, "--out", out, "--cluster", "127.0.0.1:9"))
    assert code == 2
    (line,) = stderr.splitlines()
    assert line.startswith("infer: --cluster 127.0.0.1:9: no cluster answers")
