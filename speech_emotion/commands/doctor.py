"""`supervisor.py doctor`: what is not well with this box, and what to do about it.

Takes the supervisor's flags. Every check stands alone and says what it found; the last one runs
the pipeline itself for five seconds, with the configured sources and without its endpoint. Exit
code: 0 all is well, 1 something wants a look, 2 it does not run like this.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import zmq

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.client.results import Results
from speech_emotion.common.config.load import load_config, to_toml
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.linux.runtime_dir import runtime_base_dir
from speech_emotion.common.paths import DEMO_CLIP, IMPORT_ROOT, PACKAGE
from speech_emotion.common.ring.layout import FOLDER
from speech_emotion.common.wire import public
from speech_emotion.common.wire.endpoint import on_loopback
from speech_emotion.common.wire.sockets import bind

TRIAL_S = 5.0
PATIENCE_S = 40.0
ANSWER_S = 2.0
SAMPLE_BYTES = 4
BUSY, TOO_BUSY = 0.5, 0.8
"""Share of all cores from which the trial wants a look, and is too much."""
LATE_MS = 250.0
STA_UNSYNC = 0x0040
"""adjtimex(2): the clock is not synchronized."""


class Level(enum.IntEnum):
    """How a finding is; the worst is the exit code."""

    WELL = 0
    LOOK = 1
    BAD = 2


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what.
        text: how it is.
        advice: what to do; empty where all is well.
    """

    level: Level
    topic: str
    text: str
    advice: str = ""

    def lines(self) -> list[str]:
        """As it is printed."""
        mark = {Level.WELL: "ok  ", Level.LOOK: "look", Level.BAD: "BAD "}[self.level]
        more = [f"{'':20}-> {self.advice}"] if self.advice else []
        return [f"{mark}  {self.topic:<13} {self.text}", *more]


Check = Callable[[Config], Iterator[Finding]]


def well(topic: str, text: str) -> Finding:
    return Finding(Level.WELL, topic, text)


def look(topic: str, text: str, advice: str) -> Finding:
    return Finding(Level.LOOK, topic, text, advice)


def bad(topic: str, text: str, advice: str) -> Finding:
    return Finding(Level.BAD, topic, text, advice)


# What can be known at once ------------------------------------------------------------------


def check_bundle(config: Config) -> Iterator[Finding]:
    """The bundle's files, and both of its golden vectors, each in a process of its own."""
    try:
        bundle = load_bundle(config.bundle)
    except UserError as error:
        yield bad("bundle", str(error), "restore or rebuild the bundle, or name another")
        return
    tests = {"features": [], "infer": ["--runtime", config.runtime]}
    for stage, flags in tests.items():
        done = _run(
            "-m", f"speech_emotion.{stage}", "--self-test", "--bundle", str(config.bundle), *flags
        )
        if done.returncode == 0:
            yield well("bundle", done.stdout.strip())
        else:
            yield bad("bundle", _last_line(done, f"{stage} {bundle.id}"), _runtime_advice(done))


def _runtime_advice(done: subprocess.CompletedProcess[str]) -> str:
    if "no TFLite runtime" in done.stderr or "Error" in done.stderr:
        return "the installation is not whole: run deploy/setup.sh run"
    return "restore or rebuild the bundle, or name another"


def check_memory(config: Config) -> Iterator[Finding]:
    """Room for the rings in /dev/shm."""
    try:
        rate = load_bundle(config.bundle).spec.sample_rate
    except UserError:
        rate = 16000
    need = round(len(config.stream) * config.ring.seconds * rate * SAMPLE_BYTES)
    try:
        room = os.statvfs(FOLDER)
    except OSError as error:
        yield bad("/dev/shm", error.strerror or "missing", "mount a tmpfs there")
        return
    free = room.f_bavail * room.f_frsize
    text = f"rings need {_mib(need)}, {_mib(free)} are free"
    if not os.access(FOLDER, os.W_OK | os.X_OK):
        yield bad("/dev/shm", "cannot be written", f"chmod 1777 {FOLDER}")
    elif free < need and room.f_blocks:
        advice = "set a shorter ring.seconds, or mount -o remount,size=… /dev/shm"
        yield bad("/dev/shm", text, advice)
    elif free < 4 * need and room.f_blocks:
        yield look("/dev/shm", text, "little to spare; see who else uses /dev/shm")
    else:
        yield well("/dev/shm", text)


def check_clock(config: Config) -> Iterator[Finding]:  # noqa: ARG001
    """Whether somebody keeps the wall clock right; only `time` in messages depends on it."""
    status = _clock_status()
    advice = "for right times: timedatectl set-ntp true; nothing but `time` in messages needs it"
    if time.time() < (PACKAGE / "supervisor.py").stat().st_mtime - 86400:
        yield look("clock", f"says {time.strftime('%Y-%m-%d')}, which is before our files", advice)
    elif status is None:
        yield look("clock", "cannot be asked whether it is synchronized", advice)
    elif status & STA_UNSYNC:
        yield look("clock", "is not synchronized", advice)
    else:
        yield well("clock", "is synchronized")


def _clock_status() -> int | None:
    """The kernel's `status` of struct timex; None where it does not tell."""
    buffer = (ctypes.c_long * 64)()  # modes = 0: only ask
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    # struct timex: unsigned modes; long offset, freq, maxerror, esterror; int status.
    return int(buffer[5]) & 0xFFFFFFFF


def check_place(config: Config) -> Iterator[Finding]:  # noqa: ARG001
    """Whose we are, and where the sockets go."""
    try:
        yield well("sockets", f"in {runtime_base_dir()}, for this user only")
    except UserError as error:
        yield bad("sockets", str(error), "set XDG_RUNTIME_DIR to a folder of this user's")
    if os.getuid() == 0:
        yield look(
            "user", "is root, who need not run this", "run it as a user of its own: install.sh"
        )


def check_endpoint(config: Config) -> Iterator[Finding]:
    """Whether subscribers can be served, and who can subscribe."""
    lock, unprotected = config.curve.lock, config.curve.unprotected
    if lock is not None:
        try:
            lock.check()
        except UserError as error:
            yield bad("keys", str(error), "see docs/SECURITY.md")
            return
        yield well("keys", f"{config.curve.allowed} lists who may subscribe")
    elif not on_loopback(config.results):
        advice = "give it keys: docs/SECURITY.md"
        yield look("keys", f"everybody on the network can listen at {config.results}", advice)
    if (host := config.infer_host.wanted) is not None:
        try:
            host.lock.check()
            yield well("infer host", f"may connect to {host.hub}")
        except UserError as error:
            yield bad("infer host", str(error), "see docs/SCALING.md")
    context: zmq.Context[Any] = zmq.Context()
    try:
        socket = context.socket(zmq.XPUB)
        bind(socket, config.results, "results", lock=lock, unprotected=unprotected)
        yield well("results", f"{config.results} is free")
    except UserError as error:
        if running_supervisors():
            yield well("results", f"{config.results} is in use, and a pipeline is running")
        else:
            yield bad("results", str(error), "see who has it: ss -ltnp; or set another `results`")
    finally:
        context.destroy(linger=0)
        if config.results.startswith("ipc://") and not running_supervisors():
            Path(config.results.removeprefix("ipc://")).unlink(missing_ok=True)


def running_supervisors() -> list[Path]:
    """Folders of this user's pipelines that run."""
    try:
        folders = sorted(runtime_base_dir().iterdir())
    except UserError:
        return []
    owners = {folder: ProcessIdentity.parse(folder.name) for folder in folders}
    return [folder for folder, owner in owners.items() if owner is not None and owner.alive()]


def check_devices(config: Config) -> Iterator[Finding]:
    """Which devices PortAudio finds, asked in a process that may hang or crash."""
    if not any(stream.source.startswith("mic") for stream in config.stream):
        return
    done = _run("-m", "speech_emotion.capture", "--list-devices")
    devices = done.stdout.splitlines()
    if devices:
        yield well("devices", f"{len(devices)} can be listened to")
        return
    if not Path("/dev/snd").is_dir():
        advice = "plug the microphone in; `lsusb` and `arecord -l` should show it"
    elif not any(os.access(path, os.R_OK | os.W_OK) for path in Path("/dev/snd").glob("pcm*c")):
        advice = "no permission: add the user to the group audio (usermod -aG audio USER)"
    else:
        advice = "see `arecord -l`; a sound server may hold the device"
    yield bad("devices", _last_line(done, "no input device"), advice)


# The trial ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Trial:
    """What a pipeline said while it was listened to.

    Attributes:
        error: why it did not run, one line.
        cpu: CPU time over wall time, all processes, in cores.
    """

    results: list[public.Result] = dataclasses.field(default_factory=list)
    health: public.Health | None = None
    error: str | None = None
    cpu: float = 0.0
    cores: int = 1


def check_trial(config: Config) -> Iterator[Finding]:
    """Five seconds of the real thing: sound, losses, punctuality, CPU."""
    if running := running_supervisors():
        text = f"a pipeline runs already (process {running[0].name.partition('.')[0]}), so none"
        yield well("trial", f"{text} was tried; stop it to have its sources listened to here")
        return
    trial = run_trial(config)
    if trial.error is not None:
        yield bad("trial", trial.error, trial_advice(trial.error))
        return
    yield from judge(trial, {stream.name: stream.source for stream in config.stream})


def judge(trial: Trial, sources: dict[str, str]) -> Iterator[Finding]:
    """What the trial's figures mean."""
    for name, source in sources.items():
        levels = [r.rms_db for r in trial.results if r.stream == name and r.state != "gap"]
        rows = [s for s in trial.health.streams if s.name == name] if trial.health else []
        reason = f" ({rows[0].reason})" if rows and rows[0].reason else ""
        yield hear(name, source, levels, rows[0].state + reason if rows else "")
    lost = sum(result.lost + result.skipped for result in trial.results)
    counters = trial.health.counters if trial.health else {}
    trouble = [f"{n} {count}" for n, count in counters.items() if n in LOSSES and count]
    if lost or trouble:
        advice = "raise capture.latency or capture.block_ms; see who else uses the CPU (top)"
        yield look("losses", ", ".join(trouble) or f"{lost} samples", advice)
    else:
        yield well("losses", "none")
    late = [r.timing_ms["total"] for r in trial.results if r.timing_ms and "total" in r.timing_ms]
    if late:
        text = f"median {statistics.median(late):.0f} ms, longest {max(late):.0f} ms"
        text += " from a window's last sample to its result"
        if max(late) > LATE_MS:
            yield look("delay", text, "see who else uses the CPU (top); set Nice= in the unit")
        else:
            yield well("delay", text)
    share = trial.cpu / trial.cores
    streams = f"{len(sources)} stream{'s' if len(sources) > 1 else ''}"
    text = f"{trial.cpu:.0%} of a core for {streams}, of {trial.cores} cores"
    if share > BUSY:
        advice = "fewer streams, or an infer host: docs/SCALING.md"
        yield Finding(Level.BAD if share > TOO_BUSY else Level.LOOK, "CPU", text, advice)
    else:
        yield well("CPU", text)


LOSSES = (
    *("capture_xruns", "capture_frames_dropped", "windows_overrun", "samples_overrun"),
    *("features_unsent", "infer_resumed"),
)
"""Counters that say that the box does not keep up."""


def hear(name: str, source: str, levels: list[float], state: str) -> Finding:
    """What is heard on a stream, in plain words."""
    topic = f"hear {name}"
    if not levels:
        state = state or "not opened"
        advice = "see the log of `supervisor.py` with the same configuration"
        return bad(topic, f"{source}: nothing, the stream is {state}", advice)
    loudest, middle = max(levels), statistics.median(levels)
    text = f"{source}: {middle:.0f} dBFS, loudest {loudest:.0f}"
    if loudest <= -100.0:
        advice = "it is muted or not connected: alsamixer, F4, Space; or another device"
        return look(topic, f"{source}: nothing but zeros", advice)
    if loudest < -70.0:
        advice = "speak while it listens; else raise the gain (alsamixer, F4), or another device"
        return look(topic, f"{text}: next to nothing is heard", advice)
    if loudest > -3.0:
        return look(topic, f"{text}: so loud that it clips", "lower the gain (alsamixer, F4)")
    words = "a quiet room" if middle < -50.0 else "sound"
    return well(topic, f"{text}: {words} is heard")


def trial_advice(error: str) -> str:
    """What to do about the one line with which a pipeline ended."""
    words = {
        "device": "python -m capture --list-devices shows what can be listened to",
        "/dev/shm": "set a shorter ring.seconds, or give /dev/shm more room",
        "file": "see whether the path is right",
        "bundle": "restore or rebuild the bundle",
    }
    return next((do for word, do in words.items() if word in error), "mend that and try again")


def run_trial(config: Config) -> Trial:
    """Run the pipeline for a while, on an endpoint that nobody knows."""
    with tempfile.TemporaryDirectory(prefix="sep-doctor-") as folder:
        endpoint = f"ipc://{folder}/results"
        path = Path(folder) / "trial.toml"
        path.write_text(to_toml(_for_trial(config, endpoint)))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SEP_")}
        with Results(endpoint, timeout=PATIENCE_S) as results:
            child = subprocess.Popen(
                [sys.executable, "-m", "speech_emotion", "run", "--config", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            try:
                return _listen(child, results)
            finally:
                if child.poll() is None:
                    child.kill()
                child.communicate()


def _for_trial(config: Config, endpoint: str) -> Config:
    """The same sources, in real time and not waited for; nothing is published or recorded."""
    table = config.model_dump(mode="json", exclude_none=True)
    for key in ("record", "curve", "infer_host", "dashboard", "history", "metrics"):
        table.pop(key, None)
    table.update(results=endpoint, speed="realtime")
    table["capture"]["wait_for_device"] = False
    for stream in table["stream"]:
        if stream["source"].startswith("stdin"):
            stream["source"] = f"file:{DEMO_CLIP}"
    return load_config(None, table)


def _listen(child: subprocess.Popen[str], results: Results) -> Trial:
    trial = Trial(cores=psutil.cpu_count() or 1)
    began = time.monotonic()
    until = began + PATIENCE_S
    before = 0.0
    cpu: dict[int, float] = {}
    while time.monotonic() < until and child.poll() is None:
        event = results.receive(0.1)
        _sum_cpu(child.pid, cpu)
        if event is not None and isinstance(event.message, public.Result) and not event.replay:
            if not trial.results:  # the start is over
                began, before = time.monotonic(), sum(cpu.values())
                until = min(until, began + TRIAL_S)
            trial.results.append(event.message)
    trial.health = results.health
    trial.cpu = (sum(cpu.values()) - before) / max(time.monotonic() - began, 1e-3)
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        _, stderr = child.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        trial.error = "the pipeline did not end when it was told to"
        return trial
    if child.returncode or not trial.results:
        lines = stderr.strip().splitlines()
        trial.error = lines[-1] if lines else f"it ended with exit code {child.returncode}"
    return trial


def _sum_cpu(pid: int, cpu: dict[int, float]) -> None:
    with contextlib.suppress(psutil.Error):
        supervisor = psutil.Process(pid)
        for process in (supervisor, *supervisor.children()):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system


# All of it ----------------------------------------------------------------------------------

CHECKS: tuple[Check, ...] = (
    *(check_bundle, check_memory, check_clock, check_place),
    *(check_endpoint, check_devices, check_trial),
)


def main(words: list[str]) -> int:
    """Look at everything and print it; the worst level."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    done = _run("-m", "speech_emotion", "run", "--print-config", *words)
    if done.returncode:
        finding = bad("configuration", _last_line(done, "unreadable"), "mend that and try again")
        print("\n".join(finding.lines()))
        return Level.BAD
    config = load_config(None, tomllib.loads(done.stdout))
    print("\n".join(well("configuration", "is valid").lines()), flush=True)
    worst = Level.WELL
    for check in CHECKS:
        for finding in check(config):
            print("\n".join(finding.lines()), flush=True)
            worst = max(worst, finding.level)
    return worst


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    """Our own program in a process that may hang or crash."""
    command = [sys.executable, *words]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PYTHONPATH": str(IMPORT_ROOT)},
        )
    except subprocess.TimeoutExpired:
        text = f"no answer within {PATIENCE_S:g} s"
        return subprocess.CompletedProcess(command, -1, "", text)


def _last_line(done: subprocess.CompletedProcess[str], what: str) -> str:
    lines = done.stderr.strip().splitlines()
    if lines:
        return lines[-1]
    return f"{what}: killed by signal {-done.returncode}" if done.returncode < 0 else what


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
