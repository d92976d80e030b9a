"""Shared by all parts: spread of a measure, programs with their cost, sound files, CPU load."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import psutil
import soundfile
import zmq

from speech_emotion.common.levels import rms_dbfs
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
RATE = 16000
PATIENCE_MS = 60_000
SPEECH_DBFS = -35.0


def spread(values: list[float]) -> dict[str, float]:
    """Median, p99, range and count of a list."""
    if not values:
        return {"n": 0}
    array = np.array(values, np.float64)
    return {
        "median": float(np.median(array)),
        "p99": float(np.percentile(array, 99)),
        "min": float(array.min()),
        "max": float(array.max()),
        "n": len(values),
    }


def speech_file(folder: Path, seconds: float) -> Path:
    """Speech without pauses: the loud half seconds of the test clips, repeated."""
    path = folder / f"speech-{seconds:g}.wav"
    if not path.exists():
        clips = [soundfile.read(f, dtype="float32")[0] for f in sorted(DATA.glob("speech_*.flac"))]
        samples = np.concatenate(clips)
        pieces = samples[: len(samples) // 8000 * 8000].reshape(-1, 8000)
        loud = np.concatenate([p for p in pieces if rms_dbfs(p) >= SPEECH_DBFS])
        soundfile.write(path, np.resize(loud, round(seconds * RATE)), RATE)
    return path


def quiet_file(folder: Path, seconds: float) -> Path:
    """A room without speech: white noise at -65 dBFS."""
    path = folder / f"quiet-{seconds:g}.wav"
    if not path.exists():
        noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
        soundfile.write(path, 10.0 ** (-65.0 / 20.0) * noise, RATE)
    return path


@contextlib.contextmanager
def loaded_cores() -> Iterator[None]:
    """Run one busy loop per core."""
    loads = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(psutil.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait()


@dataclasses.dataclass
class Cost:
    """CPU seconds and PSS in MiB that processes have used, by process."""

    cpu_s: dict[int, float]
    names: dict[int, str]
    pss_mb: dict[str, float]
    at: float


class Program:
    """A running pipeline, or the rival (`bench.single_process`), and a subscriber to it.

    Args:
        command: arguments of the interpreter; `--results ENDPOINT` is appended.
        env: environment variables in addition to those of this process.
        root: folder of the checkout that runs.
    """

    def __init__(
        self, command: list[str], env: dict[str, str] | None = None, root: Path = ROOT
    ) -> None:
        self._command = " ".join(command)
        self._folder = tempfile.TemporaryDirectory(prefix="sep-bench-")
        self.endpoint = f"ipc://{self._folder.name}/results"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(self.endpoint)
        self._log = (Path(self._folder.name) / "log").open("w+b")
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, *command, "--results", self.endpoint],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            cwd=root,
            env={**os.environ, **ONE_BLAS_THREAD, **(env or {})},
        )

    def messages(self, until: float | None = None) -> Iterator[tuple[str, dict[str, Any], float]]:
        """Yield topic, message and unix time of arrival until a monotonic time or the end."""
        while until is None or time.monotonic() < until:
            wait = PATIENCE_MS if until is None else max(0, int(1000 * (until - time.monotonic())))
            waited = 0
            while not self._socket.poll(min(wait - waited, 200)):
                waited += 200
                if waited >= wait:
                    if until is None:
                        raise TimeoutError(f"{self._command}: no message\n{self._log_tail()}")
                    return
                if self.process.poll() is not None and not self._socket.poll(0):
                    return
            topic, payload = self._socket.recv_multipart()
            now = time.time()
            message = msgpack.unpackb(payload) if payload else {}
            if not message.get("replay"):
                yield topic.decode(), message, now

    def wait_for(self, *, results: int = 0, topic: str = "result/") -> float:
        """Seconds from the start to the n-th message of a topic; health only when it is ok."""
        for name, message, _ in self.messages():
            if name.startswith(topic) and message.get("state") != "starting":
                results -= 1
                if results <= 0:
                    return time.monotonic() - self.began
        raise RuntimeError(f"{self._command}: ended early\n{self._log_tail()}")

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def cost(self, *, memory: bool = False) -> Cost:
        """CPU time so far, to the nanosecond, and memory now."""
        cpu, names, pss = {}, {}, {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error, OSError):
                cpu[process.pid] = cpu_seconds(process.pid)
                names[process.pid] = process_name(process)
                if memory:
                    pss[names[process.pid]] = process.memory_full_info().pss / 2**20
        return Cost(cpu, names, pss, time.monotonic())

    def end(self) -> int:
        """Stop the program. Returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._context.destroy(linger=0)
        self._log.close()
        self._folder.cleanup()
        return code

    def _log_tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-2000:]

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, also ended ones; see schedstat in proc(5)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def process_name(process: psutil.Process) -> str:
    """`supervisor`, or the name of the process's stage."""
    words = " ".join(process.cmdline()).split()
    if words[:1] == ["sep"]:
        return words[1]
    return words[words.index("-m") + 1] if "-m" in words else "supervisor"


def pipeline(
    source: Path, bundle: Path, *flags: str, block_ms: float | None = None, root: Path = ROOT
) -> Program:
    """`supervisor.py` of a checkout on a file."""
    env = {} if block_ms is None else {"SEP_CAPTURE__BLOCK_FRAMES": str(round(block_ms * 16))}
    source_flags = ["--source", f"file:{source}", "--bundle", str(bundle)]
    return Program([str(root / "supervisor.py"), *source_flags, *flags], env, root)


def rival(source: Path, bundle: Path) -> Program:
    """`bench.single_process` on a file."""
    flags = ["--source", f"file:{source}", "--bundle", str(bundle)]
    return Program(["-m", "bench.single_process", *flags])


def cpu_percent(before: Cost, after: Cost) -> float:
    """Per cent of one core that all processes used between two measurements."""
    used = sum(after.cpu_s[pid] - before.cpu_s.get(pid, 0.0) for pid in after.cpu_s)
    return 100.0 * used / (after.at - before.at)


def cpu_by_process(before: Cost, after: Cost) -> dict[str, float]:
    """Per cent of one core by process name."""
    elapsed = after.at - before.at
    return {
        after.names[pid]: 100.0 * (used - before.cpu_s.get(pid, 0.0)) / elapsed
        for pid, used in after.cpu_s.items()
    }


def machine() -> dict[str, Any]:
    """Description of this machine."""
    import platform
    from importlib.metadata import version

    cpu = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            cpu = line.partition(":")[2].strip()
            break
    flags = Path("/proc/cpuinfo").read_text()
    packages = ("numpy", "scipy", "librosa", "pyzmq", "ai-edge-litert")
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "virtual": "hypervisor" in flags,
        "kernel": platform.release().partition("-")[0],
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }
