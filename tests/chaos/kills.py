"""Stages killed, stopped and orphaned."""

from __future__ import annotations

import io
import random
import signal
import time
import wave
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.common.wire import public
from speech_emotion.dashboard.review.store import ReviewStore
from speech_emotion.supervision.restart_policy import RestartPolicy
from tests.chaos.scene import (
    BACK_S,
    RATE,
    REPORTED_S,
    Row,
    Scale,
    Scene,
    folder,
    in_order,
    microphone,
    noise,
    speech,
    spread,
)
from tests.support.alert_messages import alert_config, expected_alerts
from tests.support.alert_receivers import Posted, web_server
from tests.support.pipelines import leftovers, offline, wait_until
from tools.ports import free_port

WINDOW_S = 1.0
BLOCK = 320
"""Samples of a block of 20 ms."""
LIVED_S = RestartPolicy().quick + 0.2
KEY = 16
"""So many samples of the noise are found in one place of it only."""


def kill_file(scale: Scale) -> list[Row]:
    """features and infer under a file in real time."""
    rng, killer = random.Random(1), Killer()
    times: dict[str, list[float]] = {"features": [], "infer": []}
    victims = [*times] * scale.kills
    with folder() as here:
        path = speech(here, 4.0 + 4.5 * len(victims))
        with Scene(f"--source=file:{path}") as scene:
            scene.await_results()
            for stage in victims:
                times[stage].append(killer.kill(scene, stage, rng.uniform(0.0, 0.5)))
            received = scene.end()
        equal = received.stream() == offline(path)
    return [
        Row(
            f"kill -9 of {stage}, {len(took)} times, a file in real time",
            "same messages; results again within 3 s",
            f"{'same' if equal else 'OTHER'} messages; {spread(took)}",
            equal and max(took) <= BACK_S,
        )
        for stage, took in times.items()
    ]


def kill_live(scale: Scale) -> list[Row]:
    """features and infer under a live microphone; what was heard is replayed to compare."""
    rng, killer = random.Random(2), Killer()
    times: dict[str, list[float]] = {"features": [], "infer": []}
    victims = [*times] * scale.kills
    with folder() as here, microphone() as mic:
        mic.play(speech(here, 30.0 + 5.0 * len(victims)))
        with Scene("--source=mic", f"--record={here / 'tape'}", microphone=mic) as scene:
            scene.await_results()
            for stage in victims:
                times[stage].append(killer.kill(scene, stage, rng.uniform(0.0, 0.5)))
            received = scene.stop()
        equal = received.stream() == offline(here / "tape" / "main")
    return [
        Row(
            f"kill -9 of {stage}, {len(took)} times, live",
            "same messages as the recording gives; results again within 3 s",
            f"{'same' if equal else 'OTHER'} messages; {spread(took)}",
            equal and max(took) <= BACK_S,
        )
        for stage, took in times.items()
    ]


def kill_capture(scale: Scale) -> list[Row]:
    """The live capture; noise tells where in it we are, so the true gaps are known."""
    rng, killer, times = random.Random(3), Killer(), []
    with folder() as here, microphone() as mic:
        path, played = noise(here, 30.0 + 9.0 * scale.kills)
        mic.play(path)
        with Scene("--source=mic", f"--record={here / 'tape'}", microphone=mic) as scene:
            scene.await_results(3)
            for _ in range(scale.kills):
                times.append(killer.kill(scene, "capture", rng.uniform(0.0, 0.5)))
            received = scene.stop()
        errors = gap_errors(here / "tape" / "main", played)
        ordered = in_order(received.fresh(public.Result))
        equal = received.stream() == offline(here / "tape" / "main")
    worst = max(map(abs, errors), default=0)
    held = len(errors) == scale.kills and worst <= BLOCK and ordered and equal
    return [
        Row(
            f"kill -9 of the live capture, {scale.kills} times",
            "gap declared within one block (20 ms) of the truth; results again within 4 s",
            f"{len(errors)} gaps, off by at most {worst / RATE * 1000:.1f} ms; "
            f"{'no message missing' if ordered and equal else 'MESSAGES MISSING'}; {spread(times)}",
            held and max(times) <= WINDOW_S + BACK_S,
        )
    ]


def kill_alerts(scale: Scale) -> list[Row]:
    """The alerts process, while a receiver answers each alert only after a while."""
    rng = random.Random(5)

    def slowly(_: Posted) -> tuple[int, str]:
        time.sleep(0.2)
        return 204, ""

    with folder() as here, web_server(answers=slowly) as server:
        config = alert_config(here, f"http://127.0.0.1:{server.port}/")
        path = speech(here, 20.0 + (LIVED_S + 5.0) * scale.kills)
        with Scene(f"--config={config}", f"--source=file:{path}") as scene:
            scene.await_results()
            for number in range(scale.kills):
                time.sleep(LIVED_S + rng.uniform(0.0, 3.0))
                kill_and_await(scene, "alerts", number)
            received = scene.stop()
        wanted, arrived = expected_alerts(config, received), server.ids()
    lost, strange = set(wanted) - set(arrived), set(arrived) - set(wanted)
    return [
        Row(
            f"kill -9 of alerts, {scale.kills} times, during deliveries",
            "every alert arrives; one that arrives twice has the same id",
            f"{len(wanted)} alerts, {len(lost)} lost, {len(arrived) - len(set(arrived))} twice, "
            f"{len(strange)} with another id",
            bool(wanted) and not lost and not strange,
        )
    ]


def kill_review(scale: Scale) -> list[Row]:
    """The process that keeps sound for people to judge, while it keeps it."""
    rng = random.Random(6)
    with folder() as here:
        path = speech(here, 20.0 + (LIVED_S + 5.0) * scale.kills)
        store = ReviewStore(here / "review.sqlite")
        env = {"SEP_REVIEW__FILE": str(here / "review.sqlite"), "SEP_REVIEW__QUEUE": "200"}
        page = f"--dashboard=127.0.0.1:{free_port()}"
        with Scene(f"--source=file:{path}", page, env=env) as scene:
            scene.await_results()
            for number in range(scale.kills):
                time.sleep(LIVED_S + rng.uniform(0.0, 3.0))
                kill_and_await(scene, "review", number)
            wait_until(lambda: bool(store.list()), "an utterance to be kept")
            received = scene.stop()
        spans = {one.seq: (one.start, one.end) for one in received.fresh(public.Utterance)}
        played = read_recording(str(path), RATE).samples
        wrong = 0
        for kept in store.list():
            with wave.open(io.BytesIO(store.sound(kept.id) or b"")) as file:
                sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768.0
            end = spans[kept.seq][1]
            wrong += not np.allclose(sound, played[end - len(sound) : end], atol=1e-4)
    return [
        Row(
            f"kill -9 of review, {scale.kills} times",
            "each kept sound is that of its utterance",
            f"{len(spans)} utterances, {wrong} with another sound",
            bool(spans) and not wrong,
        )
    ]


def kill_and_await(scene: Scene, stage: str, number: int) -> None:
    """Kill a stage that has had `number` restarts, and wait until it is ready again."""
    scene.running.stages()[stage].kill()
    scene.await_health(
        lambda h: any(
            (s.name, s.state) == (stage, "ready") and s.restarts > number for s in h.stages
        ),
        f"{stage} to be ready",
    )


def stop_stages(_scale: Scale) -> list[Row]:
    """SIGSTOP: alive, and deaf."""
    rows = []
    with folder() as here, microphone() as mic:
        mic.play(speech(here, 240.0))
        with Scene("--source=mic", f"--record={here / 'tape'}", microphone=mic) as scene:
            scene.await_results(2)
            for stage in ("capture", "features", "infer", "record"):
                since, unix = time.monotonic(), time.time()
                scene.running.stages()[stage].send_signal(signal.SIGSTOP)
                reported, _ = scene.await_health(
                    lambda h, stage=stage: any(  # type: ignore[misc]
                        s.name == stage and s.state != "ready" for s in h.stages
                    ),
                    f"{stage} to be found hung",
                    since,
                )
                back = scene.await_sound_of(unix + reported, since + reported)
                scene.await_health(
                    lambda h: all(s.state == "ready" for s in h.stages), "all to be ready"
                )
                rows.append(
                    Row(
                        f"SIGSTOP of {stage}, live",
                        "reported within 3 s, then replaced, results again within 4 s",
                        f"reported after {reported:.2f} s, results {back:.2f} s later",
                        reported <= REPORTED_S and back <= WINDOW_S + BACK_S,
                    )
                )
            ordered = in_order(scene.stop().fresh(public.Result))
    if not ordered:
        rows.append(Row("after them", "no message missing", "MESSAGES MISSING", False))
    return rows


def kill_supervisor(_scale: Scale) -> list[Row]:
    """The process that no other supervises."""
    with folder() as here:
        path = speech(here, 60.0)
        with Scene(f"--source=file:{path}") as scene:
            scene.await_results()
            children = list(scene.running.stages().values())
            scene.running.process.kill()
            since = time.monotonic()
            _, alive = psutil.wait_procs(children, timeout=30.0)
            gone = time.monotonic() - since
        left = leftovers()
        short = speech(here, 3.0)
        with Scene(f"--source=file:{short}", "--speed=max") as scene:
            equal = scene.end().stream() == offline(short)
        wait_until(lambda: not leftovers() & left, "the remains to be gone")
    return [
        Row(
            "kill -9 of the supervisor",
            "every child gone within 2 s; the next start cleans up and runs",
            f"{len(children)} children gone after {gone:.2f} s; {len(left)} remains removed; "
            f"results {'right' if equal else 'WRONG'}",
            not alive and gone <= 2.0 and bool(left) and equal,
        )
    ]


class Killer:
    """Kills a stage that has lived for a while: a quick end delays its restart."""

    def __init__(self) -> None:
        self._ready: dict[str, float] = {}

    def kill(self, scene: Scene, stage: str, pause: float) -> float:
        """kill -9, and the seconds until there is a result of sound from after it.

        Args:
            pause: seconds more than the stage must have lived.
        """
        born = self._ready.setdefault(stage, time.monotonic())
        time.sleep(max(0.0, born + LIVED_S + pause - time.monotonic()))
        since, unix = time.monotonic(), time.time()
        scene.running.stages()[stage].kill()
        took = scene.await_sound_of(unix, since)
        scene.await_health(
            lambda h: all(s.state == "ready" for s in h.stages), f"{stage} to be ready"
        )
        self._ready[stage] = time.monotonic()
        return took


def gap_errors(tape: Path, played: NDArray[np.int16]) -> list[int]:
    """Samples by which each declared gap is longer than what is missing of the noise."""
    recording = read_recording(str(tape), RATE)
    heard = np.rint(recording.samples * 32768.0).astype(np.int16)
    where = {played[i : i + KEY].tobytes(): i for i in range(len(played) - KEY)}
    errors = []
    for a, b in recording.gaps:
        before = where[heard[a - KEY : a].tobytes()] + KEY
        behind = where[heard[b : b + KEY].tobytes()]
        errors.append((b - a) - (behind - before))
    return errors
