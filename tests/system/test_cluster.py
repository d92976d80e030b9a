"""`infer --cluster`: two nodes of Ray on this machine; a worker and a node die in the middle."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from tests.support.pipelines import BUNDLE, DEMO, ROOT, kill, wait_until
from tests.support.sound_servers import answers
from tools.ports import free_port

pytest.importorskip("ray", reason="needs the extra `cluster` (Ray)")
pytest.importorskip("pyarrow")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("cluster")]

PATIENCE_S = 180.0
"""Ray's nodes take seconds to start, and minutes where all else runs at once."""
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # A node that is gone is noticed within 2 s, not 20; one that is only slow is kept.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "20000",
    "RAY_health_check_failure_threshold": "3",
}
ANY_PORT = ("--min-worker-port=0", "--max-worker-port=0")
"""Two nodes on one machine would try the same ports for their workers."""


class Node:
    """A node with one processor: `ray start`, and all that it starts.

    `ray stop` would end all nodes of the machine, also those of other tests.
    """

    def __init__(self, *words: str, prefix: tuple[str, ...] = ()) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the node)
        ray = str(Path(sys.executable).with_name("ray"))
        common = ("--num-cpus=1", "--object-store-memory=80000000", "--block", *ANY_PORT)
        self._process = subprocess.Popen(
            [*prefix, ray, "start", *common, *words],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )

    @property
    def processes(self) -> list[psutil.Process]:
        """`ray start` and all that it has started."""
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @property
    def is_up(self) -> bool:
        """Whether it is part of the cluster."""
        said = os.pread(self._output.fileno(), 1 << 16, 0).decode()
        assert self._process.poll() is None, said
        return "Ray runtime started" in said

    @property
    def analysts(self) -> list[psutil.Process]:
        """Its processes that analyse."""
        found = []
        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                if "Analyst" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """End it as a power failure does: no process reports the end of another one."""
        processes = self.processes
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        self._process.wait()
        psutil.wait_procs(processes, timeout=PATIENCE_S)
        self._output.close()


@dataclasses.dataclass(frozen=True)
class Head:
    """The first node of a cluster, and the addresses that `--cluster` takes."""

    node: Node
    address: str
    client_address: str


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    port, client_port = free_port(), free_port()
    # Longer paths do not fit its sockets.
    folder = tempfile.mkdtemp(prefix="sep-ray-", dir="/tmp")
    node = Node(
        *("--head", f"--port={port}", f"--ray-client-server-port={client_port}"),
        *(f"--temp-dir={folder}", "--include-dashboard=false"),
    )
    try:
        wait_until(lambda: node.is_up and answers(client_port), "the head node", PATIENCE_S)
        yield Head(node, f"127.0.0.1:{port}", f"ray://127.0.0.1:{client_port}")
    finally:
        node.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def join(head: Head) -> Iterator[Callable[..., Node]]:
    """Adds nodes to the cluster, and ends them after the test."""
    nodes: list[Node] = []

    def start(*prefix: str) -> Node:
        node = Node(f"--address={head.address}", prefix=prefix)
        nodes.append(node)
        wait_until(lambda: node.is_up, "another node", PATIENCE_S)
        return node

    yield start
    for node in nodes:
        node.kill()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short clips, files that take a second each, and one that is damaged."""
    folder = tmp_path_factory.mktemp("in")
    samples, rate = soundfile.read(DEMO, dtype="float32")
    for k in range(6):
        soundfile.write(folder / f"clip{k}.flac", samples[k * rate : (k + 9) * rate], rate)
    with soundfile.SoundFile(folder / "long00.flac", "w", 192_000, 2) as file:
        for _ in range(25):
            file.write(np.zeros((192_000, 2), np.int16))
    for k in range(1, 12):
        os.link(folder / "long00.flac", folder / f"long{k:02}.flac")
    (folder / "damaged.flac").write_bytes((folder / "clip0.flac").read_bytes()[:9000])
    return folder


@dataclasses.dataclass(frozen=True)
class Done:
    code: int
    stderr: str


PROGRAM = ("-m", "infer")


def started(
    *words: object,
    program: tuple[str, ...] = PROGRAM,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, "--bundle", str(BUNDLE), *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
    )


def ended(process: subprocess.Popen[str]) -> Done:
    with process:
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert stdout == ""
    assert all(line.startswith("infer: ") for line in stderr.splitlines()), stderr
    return Done(process.returncode, stderr)


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_worker_and_a_node_die_and_the_result_has_the_same_bytes(
    head: Head, join: Callable[..., Node], recordings: Path, tmp_path: Path
) -> None:
    whole, disturbed = tmp_path / "whole.parquet", tmp_path / "disturbed.parquet"
    assert ended(started(recordings, "--out", whole)).code == 4  # the damaged one
    other = join()
    process = started(recordings, "--out", disturbed, "--cluster", head.address)
    parts = Path(f"{disturbed}.parts")

    def done(count: int) -> bool:
        assert process.poll() is None, ended(process)
        return len(list(parts.glob("??/*.parquet"))) >= count

    wait_until(lambda: done(2) and bool(head.node.analysts), "a worker of the head", PATIENCE_S)
    (worker,) = head.node.analysts
    worker.suspend()  # from here on, the other node makes the progress
    wait_until(lambda: done(6) and bool(other.analysts), "the other node", PATIENCE_S)
    kill(worker)
    wait_until(lambda: done(8), "two more", PATIENCE_S)
    other.kill()
    result = ended(process)
    assert result.code == 4, result.stderr
    assert "infer: a cluster of 2 machines, 2 processors\n" in result.stderr
    assert "19 files, 1 with errors" in result.stderr.splitlines()[-1]
    assert disturbed.read_bytes() == whole.read_bytes()
    assert content_of(parts) == content_of(Path(f"{whole}.parts"))


def test_from_outside_of_the_cluster(head: Head, recordings: Path, tmp_path: Path) -> None:
    clips = sorted(recordings.glob("clip*"))
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    assert ended(started(*clips, "--out", here)).code == 0
    result = ended(started(*clips, "--out", there, "--cluster", head.client_address))
    assert result.code == 0, result.stderr
    assert there.read_bytes() == here.read_bytes()


def test_a_machine_that_does_not_see_the_inputs(
    head: Head, join: Callable[..., Node], recordings: Path, tmp_path: Path
) -> None:
    hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
    if subprocess.run([*hide, str(recordings), "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount")
    join(*hide, str(recordings))
    out = tmp_path / "out"
    result = ended(started(recordings, "--out", out, "--cluster", head.address))
    assert result.code == 2
    last = result.stderr.splitlines()[-1]
    assert "all machines need inputs, bundle and --out under the same paths" in last
    assert str(recordings) in last
    # What the other machine has done stays, and the rest is done without the cluster.
    assert ended(started(recordings, "--out", out, "--resume")).code == 4


def test_another_version_of_ray_is_one_line(head: Head, recordings: Path, tmp_path: Path) -> None:
    older = (
        "import runpy, ray; ray.__version__ = '2.1.0'; "
        "runpy.run_module('infer', run_name='__main__', alter_sys=True)"
    )
    words = (recordings, "--out", tmp_path / "out", "--cluster", head.address)
    result = ended(started(*words, program=("-c", older)))
    assert result.code == 2
    (line,) = result.stderr.splitlines()
    assert "Version mismatch" in line
    assert "Ray: 2.1.0" in line


def test_a_cluster_of_this_machine_ends_with_ctrl_c(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started(recordings, "--out", out, "--cluster", "local")
    wait_until(lambda: bool(list(out.glob("??/*.parquet"))), "a part", PATIENCE_S)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    result = ended(process)
    assert result.code == 130
    assert result.stderr.splitlines()[-1].startswith("infer: interrupted; --resume continues")
    assert not psutil.wait_procs(children, timeout=PATIENCE_S)[1]
    result = ended(started(recordings, "--out", out, "--cluster", "local", "--resume"))
    assert result.code == 4
    assert "infer: a cluster of 1 machine, " in result.stderr
    assert " already done, 1 with errors" in result.stderr.splitlines()[-1]


def test_no_cluster_is_one_line(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        other = f"127.0.0.1:{silent.getsockname()[1]}"
        reasons = {"127.0.0.1:9": "Connection refused", other: "no answer of Ray within 10 s"}
        for address, reason in reasons.items():
            result = ended(started(recordings, "--out", out, "--cluster", address))
            assert result.code == 2
            (line,) = result.stderr.splitlines()
            assert line.startswith(f"infer: --cluster {address}: no cluster answers ({reason})")
    assert not out.exists()


def test_another_token_is_one_line(head: Head, recordings: Path, tmp_path: Path) -> None:
    words = (recordings, "--out", tmp_path / "out", "--cluster", head.address)
    result = ended(started(*words, environment={"RAY_AUTH_TOKEN": secrets.token_hex(32)}))
    assert result.code == 2
    (line,) = result.stderr.splitlines()
    assert "Ray answers, but not to this machine; set RAY_AUTH_MODE=token" in line
