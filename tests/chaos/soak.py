"""A day of sound at full speed, with every stage killed again and again."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil
from scipy.stats import linregress

from speech_emotion.common.wire import public
from tests.chaos.scene import RATE, Row, Scale, Scene, folder, in_order, speech

STAGES = ("capture", "features", "infer")
EVERY_S = 0.1
LIVED_S = 0.5
SHORT_LIVES = (
    "-c",
    "import functools, os, sys; sys.path.insert(0, os.getcwd()); "
    "import speech_emotion.supervision.process_table as table; "
    f"table.RestartPolicy = functools.partial(table.RestartPolicy, quick={LIVED_S / 2}); "
    "import speech_emotion.supervisor; sys.exit(speech_emotion.supervisor.main())",
)
"""A process that dies soon after it was ready, again and again, is restarted with growing delays: a
hundred restarts would take longer than a day of sound."""
END_S = 60.0
"""The last minute of sound is left out: processes that end give things back."""
WARM_SHARE = 0.1
"""The first part of each series is a process that has not seen everything yet."""
GROWTH_LIMITS = {"memory, MiB": 8.0, "descriptors": 2.0, "threads": 1.0, "segments": 0.5}
"""What the upper end of a slope's 95 % interval may add up to over the whole run."""


def soak(scale: Scale) -> list[Row]:
    """All stages killed every few seconds; then undisturbed, so that the stages grow old, too."""
    with folder() as here:
        path = speech(here, 3600.0 * scale.soak_h)
        total = round(3600.0 * scale.soak_h * RATE)
        samples: list[tuple[float, str, dict[str, float]]] = []
        began = time.monotonic()
        with Scene(f"--source=file:{path}", "--speed=max", program=SHORT_LIVES) as scene:
            scene.await_results()
            supervisor = psutil.Process(scene.running.process.pid)
            position = rounds = quiet_from = 0
            ready_at: float | None = None
            while scene.running.process.poll() is None:
                time.sleep(EVERY_S)
                position = max(position, _position(scene))
                if position < total - END_S * RATE:
                    _look(samples, position / RATE / 3600.0, supervisor, scene)
                ready_at = ready_at or _all_ready(scene, rounds)
                lived = 0.0 if ready_at is None else time.monotonic() - ready_at
                if rounds < scale.soak_restarts and lived > LIVED_S:
                    for process in scene.running.stages().values():
                        with contextlib.suppress(psutil.Error):
                            process.kill()
                    rounds, quiet_from, ready_at = rounds + 1, position, None
            received = scene.end()
        took = time.monotonic() - began
        ordered = in_order(received.fresh(public.Result))
    health = received.fresh(public.Health)[-1]
    restarts = {s.name: s.restarts for s in health.stages}
    whole = ordered and position >= total - END_S * RATE and not health.streams[0].lost
    rows = [
        Row(
            f"{scale.soak_h:g} h of sound at full speed, every stage killed {rounds} times",
            "no message missing",
            f"{len(received.fresh(public.Result))} results in {took / 60:.1f} min, "
            f"{'none' if whole else 'SOME'} missing; restarts {restarts}",
            whole and rounds == scale.soak_restarts,
        )
    ]
    series = {
        "supervisor, whole run": [s for s in samples if s[1] == "supervisor"],
        **{
            f"{stage}, from the last kill on": [
                s for s in samples if s[1] == stage and s[0] > quiet_from / RATE / 3600.0
            ]
            for stage in STAGES
        },
    }
    for name, points in series.items():
        rows.append(_growth(name, points, scale.soak_h))
    return rows


def _all_ready(scene: Scene, rounds: int) -> float | None:
    """The time (CLOCK_MONOTONIC), if every stage is back for the so manieth time."""
    health = scene.health()
    back = health is not None and all(
        s.state == "ready" and s.restarts == rounds for s in health.stages
    )
    return time.monotonic() if back else None


def _position(scene: Scene) -> int:
    """Samples of which the newest results speak."""
    newest = scene.received.messages[-10:]
    return max((x.end for x, *_ in newest if isinstance(x, public.Result)), default=0)


def _look(
    samples: list[tuple[float, str, dict[str, float]]],
    hours: float,
    supervisor: psutil.Process,
    scene: Scene,
) -> None:
    segments = len(list(Path("/dev/shm").glob("sep.*")))
    with contextlib.suppress(psutil.Error):
        for name, process in {"supervisor": supervisor, **scene.running.stages()}.items():
            values = {
                "memory, MiB": process.memory_info().rss / 2**20,
                "descriptors": process.num_fds(),
                "threads": process.num_threads(),
            }
            if name == "supervisor":
                values["segments"] = segments
            samples.append((hours, name, values))


def _growth(name: str, points: list[tuple[float, str, dict[str, float]]], hours: float) -> Row:
    """Slopes over hours of sound, with their 95 % intervals, of what must not grow."""
    points = points[round(WARM_SHARE * len(points)) :]
    lines, held = [], len(points) >= 10
    if not held:
        return Row(f"growth: {name}", "no growth", f"{len(points)} looks are too few", False)
    for quantity in points[0][2]:
        values = [p[2][quantity] for p in points]
        if len(set(values)) == 1:
            lines.append(f"{quantity} constant")
            continue
        fit = linregress([p[0] for p in points], values)
        error = 1.96 * fit.stderr
        low, high = fit.slope - error, fit.slope + error
        lines.append(f"{quantity} {fit.slope:+.4f} an hour ({low:+.4f} to {high:+.4f})")
        held &= high * hours < GROWTH_LIMITS[quantity]
    return Row(
        f"growth: {name}", "no growth: slope with its 95 % interval", "; ".join(lines), bool(held)
    )
