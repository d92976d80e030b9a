"""A trial for the doctor: run the pipeline for a few seconds and judge its figures."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from speech_emotion.commands.finding import Finding, Level, bad, look, well
from speech_emotion.common.client.results import Results
from speech_emotion.common.config.load import load_config, to_toml
from speech_emotion.common.config.model import Config
from speech_emotion.common.linux.parent_death import die_with_parent
from speech_emotion.common.paths import DEMO_CLIP
from speech_emotion.common.source_address import FFMPEG_KINDS, shown
from speech_emotion.common.wire import public

TRIAL_S = 5.0
"""Length of the trial after the first result."""
PATIENCE_S = 40.0
"""Longest time until the first result, and until the pipeline has stopped."""
BUSY, TOO_BUSY = 0.5, 0.8
"""CPU load, as a share of all cores, from which the finding is LOOK and BAD."""
LATE_MS = 250.0
"""Longest delay of a result that needs no look."""


@dataclasses.dataclass
class Trial:
    """Measurements of a trial.

    Attributes:
        error: cause of a failed run, one line.
        cpu: CPU time of all processes per wall time, in cores.
    """

    results: list[public.Result] = dataclasses.field(default_factory=list)
    health: public.Health | None = None
    error: str | None = None
    cpu: float = 0.0
    cores: int = 1


def judge(trial: Trial, sources: dict[str, str]) -> Iterator[Finding]:
    """Findings from the measurements of a trial.

    Args:
        sources: stream → its source.
    """
    for name, source in sources.items():
        levels = [r.rms_db for r in trial.results if r.stream == name and r.state != "gap"]
        rows = [s for s in trial.health.streams if s.name == name] if trial.health else []
        reason = f" ({rows[0].reason})" if rows and rows[0].reason else ""
        yield hear(name, source, levels, rows[0].state + reason if rows else "")
    lost = sum(result.lost + result.skipped for result in trial.results)
    counters = trial.health.counters if trial.health else {}
    trouble = [f"{n} {count}" for n, count in counters.items() if n in LOSSES and count]
    if lost or trouble:
        advice = "raise capture.latency or capture.block_ms; see other users of the CPU (top)"
        yield look("losses", ", ".join(trouble) or f"{lost} samples", advice)
    else:
        yield well("losses", "none")
    late = [r.timing_ms["total"] for r in trial.results if r.timing_ms and "total" in r.timing_ms]
    if late:
        text = f"median {statistics.median(late):.0f} ms, longest {max(late):.0f} ms"
        text += " from a window's last sample to its result"
        if max(late) > LATE_MS:
            yield look("delay", text, "see other users of the CPU (top); set Nice= in the unit")
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
"""Counters that show that the machine is too slow or too busy."""


def hear(name: str, source: str, levels: list[float], state: str) -> Finding:
    """Finding from the levels of a stream, in plain words.

    Args:
        levels: RMS level of each window in dBFS.
        state: state of the stream's source.
    """
    topic, source = f"hear {name}", shown(source)
    if not levels:
        state = state or "not opened"
        advice = "see the log of `supervisor.py` with the same configuration"
        if source.partition(":")[0] in FFMPEG_KINDS:
            advice = "does another player (VLC, ffplay) hear it? docs/SOURCES.md has the causes"
        return bad(topic, f"{source}: nothing, the stream is {state}", advice)
    if state == "muted":
        return look(topic, f"{source}: muted", "unmute, or try again after the quiet hours")
    loudest, median = max(levels), statistics.median(levels)
    text = f"{source}: {median:.0f} dBFS, loudest {loudest:.0f}"
    if loudest <= -100.0:
        advice = "it is muted or not connected: alsamixer, F4, Space; or another device"
        return look(topic, f"{source}: nothing but zeros", advice)
    if loudest < -70.0:
        advice = "speak while it listens; else raise the gain (alsamixer, F4), or another device"
        return look(topic, f"{text}: next to nothing is heard", advice)
    if loudest > -3.0:
        return look(topic, f"{text}: so loud that it clips", "lower the gain (alsamixer, F4)")
    words = "a quiet room" if median < -50.0 else "sound"
    return well(topic, f"{text}: {words} is heard")


def trial_advice(error: str) -> str:
    """Advice for the line with which a pipeline ended."""
    words = {
        "device": "speech-emotion devices lists the input devices",
        "/dev/shm": "set a shorter ring.seconds, or give /dev/shm more room",
        "file": "check the path",
        "bundle": "restore or rebuild the bundle",
    }
    return next((do for word, do in words.items() if word in error), "correct this and try again")


def run_trial(config: Config) -> Trial:
    """Run the pipeline for some seconds, on an endpoint that no other program knows."""
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
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )
            try:
                return _listen(child, results)
            finally:
                if child.poll() is None:
                    child.kill()
                child.communicate()


def _for_trial(config: Config, endpoint: str) -> Config:
    """The configuration with the same sources in real time, without outputs and waiting."""
    table = config.model_dump(mode="json", exclude_none=True)
    for key in ("record", "curve", "infer_host", "dashboard", "history", "metrics"):
        table.pop(key, None)
    table.update(results=endpoint, speed="realtime")
    table["capture"]["wait_for_device"] = False
    for stream in table["stream"]:
        # A trial must not take what another program pipes, nor mark recordings as processed.
        if stream["source"].startswith(("stdin:", "watch:")):
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
            if not trial.results:  # the start is complete
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
        trial.error = "the pipeline did not stop after SIGTERM"
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
