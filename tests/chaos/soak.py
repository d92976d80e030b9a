"""A day of sound at full speed, with every stage killed again and again."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import psutil
from scipy.stats import linregress

from common import messages as m
from tests.chaos.scene import RATE, Row, Scale, Scene, folder, in_order, speech

STAGES = ("capture", "features", "infer")
EVERY_S = 0.1
END_S = 60.0
"""The last minute of sound is left out: processes that end give things back."""
WARM_SHARE = 0.1
"""The first part of each series is a process that has not seen everything yet."""
GROWTH_LIMITS = {"memory, MiB": 8.0, "descriptors": 2.0, "threads": 1.0, "segments": 0.5}
"""What the upper end of a slope's 95 % interval may add up to over the whole run."""


def soak(scale: Scale) -> list[Row]:
    """Kills in the first half; the second half undisturbed, so that the stages grow old, too."""
    rng = random.Random(5)
    with folder() as here:
        path = speech(here, 3600.0 * scale.soak_h)
        total = round(3600.0 * scale.soak_h * RATE)
        victims = [stage for stage in STAGES for _ in range(scale.soak_restarts)]
        rng.shuffle(victims)
        due = [total / 2 * (n + 1) / (len(victims) + 1) for n in range(len(victims))]
        samples: list[tuple[float, str, dict[str, float]]] = []
        began = time.monotonic()
        with Scene(f"--source=file:{path}", "--speed=max") as scene:
            scene.await_results()
            supervisor = psutil.Process(scene.running.process.pid)
            position = killed = 0
            while scene.running.process.poll() is None:
                time.sleep(EVERY_S)
                position = max(position, _position(scene))
                if position < total - END_S * RATE:
                    _look(samples, position / RATE / 3600.0, supervisor, scene)
                if killed < len(victims) and position >= due[killed]:
                    with contextlib.suppress(KeyError, psutil.Error):
                        scene.running.stages()[victims[killed]].kill()
                        killed += 1
            received = scene.end()
        took = time.monotonic() - began
        ordered = in_order(received.fresh(m.Result))
    health = received.fresh(m.Health)[-1]
    restarts = {s.name: s.restarts for s in health.stages}
    whole = ordered and position >= total - END_S * RATE and not health.streams[0].lost
    rows = [
        Row(
            f"{scale.soak_h:g} h of sound at full speed, {killed} kills",
            "no message missing",
            f"{len(received.fresh(m.Result))} results in {took / 60:.1f} min, "
            f"{'none' if whole else 'SOME'} missing; restarts {restarts}",
            whole and killed == len(victims),
        )
    ]
    series = {
        "supervisor, whole run": [s for s in samples if s[1] == "supervisor"],
        **{
            f"{stage}, second half": [
                s for s in samples if s[1] == stage and s[0] > scale.soak_h / 2
            ]
            for stage in STAGES
        },
    }
    for name, points in series.items():
        rows.append(_growth(name, points, scale.soak_h))
    return rows


def _position(scene: Scene) -> int:
    """Samples of which the newest results speak."""
    newest = scene.received.messages[-10:]
    return max((x.end for x, *_ in newest if isinstance(x, m.Result)), default=0)


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
    told, held = [], len(points) >= 10
    if not held:
        return Row(f"growth: {name}", "no growth", f"{len(points)} looks are too few", False)
    for quantity in points[0][2]:
        values = [p[2][quantity] for p in points]
        if len(set(values)) == 1:
            told.append(f"{quantity} constant")
            continue
        fit = linregress([p[0] for p in points], values)
        error = 1.96 * fit.stderr
        low, high = fit.slope - error, fit.slope + error
        told.append(f"{quantity} {fit.slope:+.4f} an hour ({low:+.4f} to {high:+.4f})")
        held &= high * hours < GROWTH_LIMITS[quantity]
    return Row(f"growth: {name}", "no growth: slope with its 95 % interval", "; ".join(told), held)
