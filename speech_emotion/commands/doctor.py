"""Check this machine and the configuration, and print what is wrong and how to correct it.

usage: speech-emotion doctor [FLAGS OF speech-emotion run]

The last check runs the pipeline for five seconds with the configured sources, on an endpoint of
its own. Exit code: 0 nothing is wrong, 1 something needs a look, 2 the pipeline cannot run.

examples:
  speech-emotion doctor
  speech-emotion doctor --config box.toml
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from speech_emotion.commands.finding import Finding, Level, bad, look, well
from speech_emotion.commands.trial import PATIENCE_S, judge, run_trial, trial_advice
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.config.load import load_config
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import UserError, printable
from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.linux.runtime_dir import runtime_base_dir
from speech_emotion.common.paths import IMPORT_ROOT, PACKAGE
from speech_emotion.common.ring.layout import FOLDER
from speech_emotion.common.source_address import FFMPEG_KINDS
from speech_emotion.common.wire.endpoint import on_loopback
from speech_emotion.common.wire.sockets import bind

SAMPLE_BYTES = 4
FFMPEG_LEAST = 5
"""Oldest version of ffmpeg whose `concat` lists have options."""
STA_UNSYNC = 0x0040
"""adjtimex(2): the clock is not synchronized."""


Check = Callable[[Config], Iterator[Finding]]


# Checks without a trial ------------------------------------------------------------------


def check_bundle(config: Config) -> Iterator[Finding]:
    """Files of the bundle and its golden vectors, each stage in its own process."""
    try:
        bundle = load_bundle(config.bundle)
    except UserError as error:
        yield bad("bundle", str(error), "restore or rebuild the bundle, or choose another one")
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
    if "no ONNX runtime" in done.stderr:
        return "install onnxruntime with pip: the extra `onnx`"
    if "no TFLite runtime" in done.stderr or "Error" in done.stderr:
        return "the installation is incomplete: run deploy/setup.sh run"
    return "restore or rebuild the bundle, or choose another one"


def check_memory(config: Config) -> Iterator[Finding]:
    """Space for the rings in /dev/shm."""
    try:
        rate = load_bundle(config.bundle).spec.sample_rate
    except UserError:
        rate = 16000
    needed = round(len(config.stream) * config.ring.seconds * rate * SAMPLE_BYTES)
    try:
        room = os.statvfs(FOLDER)
    except OSError as error:
        yield bad("/dev/shm", error.strerror or "missing", "mount a tmpfs there")
        return
    free = room.f_bavail * room.f_frsize
    text = f"rings need {_mib(needed)}, {_mib(free)} are free"
    if not os.access(FOLDER, os.W_OK | os.X_OK):
        yield bad("/dev/shm", "cannot be written", f"chmod 1777 {FOLDER}")
    elif free < needed and room.f_blocks:
        advice = "set a shorter ring.seconds, or mount -o remount,size=… /dev/shm"
        yield bad("/dev/shm", text, advice)
    elif free < 4 * needed and room.f_blocks:
        yield look("/dev/shm", text, "little space is left; see which other programs use /dev/shm")
    else:
        yield well("/dev/shm", text)


def check_clock(config: Config) -> Iterator[Finding]:  # noqa: ARG001
    """Whether the wall clock is synchronized; only `time` in messages depends on it."""
    status = _clock_status()
    advice = "run: timedatectl set-ntp true; only `time` in messages depends on the clock"
    if time.time() < (PACKAGE / "supervisor.py").stat().st_mtime - 86400:
        text = f"shows {time.strftime('%Y-%m-%d')}, which is before the date of our files"
        yield look("clock", text, advice)
    elif status is None:
        yield look("clock", "is of unknown synchronization", advice)
    elif status & STA_UNSYNC:
        yield look("clock", "is not synchronized", advice)
    else:
        yield well("clock", "is synchronized")


def _clock_status() -> int | None:
    """The kernel's `status` of struct timex; None where the call fails."""
    buffer = (ctypes.c_long * 64)()  # modes = 0: read only
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
            return None
    except (OSError, AttributeError):
        return None
    # struct timex: unsigned modes; long offset, freq, maxerror, esterror; int status.
    return int(buffer[5]) & 0xFFFFFFFF


def check_place(config: Config) -> Iterator[Finding]:  # noqa: ARG001
    """User of the process, and folder of the sockets."""
    try:
        yield well("sockets", f"in {runtime_base_dir()}, for this user only")
    except UserError as error:
        yield bad("sockets", str(error), "set XDG_RUNTIME_DIR to a folder of this user")
    if os.getuid() == 0:
        yield look(
            "user", "is root, which is not needed", "run it as its own user: deploy/install.sh"
        )


def check_endpoint(config: Config) -> Iterator[Finding]:
    """Whether the results endpoint is free, and which clients may subscribe."""
    lock, unprotected = config.curve.lock, config.curve.unprotected
    if lock is not None:
        try:
            lock.check()
        except UserError as error:
            yield bad("keys", str(error), "see docs/SECURITY.md")
            return
        yield well("keys", f"{config.curve.allowed} lists the clients that may subscribe")
    elif not on_loopback(config.results):
        advice = "give it keys: docs/SECURITY.md"
        yield look("keys", f"everybody on the network can subscribe at {config.results}", advice)
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
            advice = "see which program uses it: ss -ltnp; or set another `results`"
            yield bad("results", str(error), advice)
    finally:
        context.destroy(linger=0)
        if config.results.startswith("ipc://") and not running_supervisors():
            Path(config.results.removeprefix("ipc://")).unlink(missing_ok=True)


def running_supervisors() -> list[Path]:
    """Runtime folders of the running pipelines of this user."""
    try:
        folders = sorted(runtime_base_dir().iterdir())
    except UserError:
        return []
    owners = {folder: ProcessIdentity.parse(folder.name) for folder in folders}
    return [folder for folder, owner in owners.items() if owner is not None and owner.alive()]


def check_devices(config: Config) -> Iterator[Finding]:
    """Input devices that PortAudio finds, in a process of its own, which may hang or crash."""
    if not any(stream.source.startswith("mic") for stream in config.stream):
        return
    done = _run("-m", "speech_emotion.capture", "--list-devices")
    devices = done.stdout.splitlines()
    if devices:
        yield well("devices", f"{len(devices)} input devices")
        return
    if not Path("/dev/snd").is_dir():
        advice = "plug the microphone in; `lsusb` and `arecord -l` should show it"
    elif not any(os.access(path, os.R_OK | os.W_OK) for path in Path("/dev/snd").glob("pcm*c")):
        advice = "no permission: add the user to the group audio (usermod -aG audio USER)"
    else:
        advice = "see `arecord -l`; a sound server may hold the device"
    yield bad("devices", _last_line(done, "no input device"), advice)


def check_ffmpeg(config: Config) -> Iterator[Finding]:
    """Whether ffmpeg is installed where a source needs it."""
    kinds = {stream.source.partition(":")[0] for stream in config.stream}
    if not kinds.intersection(FFMPEG_KINDS):
        return
    path = shutil.which("ffmpeg")
    if path is None:
        yield bad("ffmpeg", "is not installed", "sudo apt-get install ffmpeg")
        return
    version = _run_program(path, "-version").stdout.partition("\n")[0]
    number = re.match(r"ffmpeg version \D*(\d+)", version)
    if number is not None and int(number[1]) < FFMPEG_LEAST:
        advice = f"network sources need ffmpeg {FFMPEG_LEAST}.0 or newer: update the system"
        yield bad("ffmpeg", f"is version {number[1]}", advice)
    else:
        yield well("ffmpeg", version.partition(" Copyright")[0])


# Trial ----------------------------------------------------------------------------------


def check_trial(config: Config) -> Iterator[Finding]:
    """Five seconds of the pipeline: sound, losses, delay, CPU."""
    if running := running_supervisors():
        pid = running[0].name.partition(".")[0]
        yield well("trial", f"skipped, a pipeline is running (process {pid}); stop it for a trial")
        return
    trial = run_trial(config)
    if trial.error is not None:
        yield bad("trial", trial.error, trial_advice(trial.error))
        return
    yield from judge(trial, {stream.name: stream.source for stream in config.stream})


# Command ----------------------------------------------------------------------------------

CHECKS: tuple[Check, ...] = (
    *(check_bundle, check_memory, check_clock, check_place),
    *(check_endpoint, check_devices, check_ffmpeg, check_trial),
)


def main(words: list[str]) -> int:
    """Run all checks and print the findings; returns the worst level."""
    if {"-h", "--help"} & set(words):
        print(__doc__.rstrip())
        return 0
    done = _run("-m", "speech_emotion", "run", "--print-config=all", *words)
    if done.returncode:
        finding = bad("configuration", _last_line(done, "unreadable"), "correct this and try again")
        print("\n".join(map(printable, finding.lines())))
        return Level.BAD
    config = load_config(None, tomllib.loads(done.stdout))
    print("\n".join(well("configuration", "is valid").lines()), flush=True)
    worst = Level.WELL
    for check in CHECKS:
        for finding in check(config):
            print("\n".join(map(printable, finding.lines())), flush=True)
            worst = max(worst, finding.level)
    return worst


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run this program in a process of its own, which may hang or crash."""
    return _run_program(sys.executable, *words)


def _run_program(*command: str) -> subprocess.CompletedProcess[str]:
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
