"""Lost time: a stopped supervisor, a busy machine, a disk that stalls."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from speech_emotion.common.wire import public
from tests.chaos.late import samples_from
from tests.chaos.scene import RATE, Row, Scale, Scene, folder, in_order, speech
from tests.support.pipelines import BUNDLE, Received, offline
from tests.support.swaps import messages_of

STOP_S = 4.0
BUSY = 60
"""Processes that want a core: a load of 30 on two cores."""
FROZEN_S = (20.0, 45.0)
"""Seconds that the disk stalls: less, and more, than the ring holds."""
IMAGE_MB = 256
STOPPED_S = 20.0


def stopped_supervisor(scale: Scale) -> list[Row]:
    """SIGSTOP of the supervisor for 4 s, several times; its stages run meanwhile."""
    times = max(2, scale.kills // 4)
    with folder() as here:
        path = speech(here, 12.0 + 6.5 * times)
        with Scene(f"--source=file:{path}") as scene:
            scene.await_results(2)
            stages = {name: process.pid for name, process in scene.running.stages().items()}
            supervisor = psutil.Process(scene.running.process.pid)
            for _ in range(times):
                supervisor.suspend()
                time.sleep(STOP_S)
                supervisor.resume()
                scene.await_health(lambda h: h.state == "ok", "all to be well")
                scene.await_results(len(scene.results()) + 2)
            same = {n: p.pid for n, p in scene.running.stages().items()} == stages
            received = scene.end()
        equal = received.stream() == offline(path)
    return [
        Row(
            f"SIGSTOP of the supervisor for {STOP_S:g} s, {times} times",
            "no stage killed, same messages",
            f"{restarts(received)} restarts, {'same' if equal else 'OTHER'} messages",
            equal and same and not restarts(received),
        )
    ]


def restarts(received: Received) -> int:
    """Restarts of all stages, by the newest `health`."""
    return sum(stage.restarts for stage in received.fresh(public.Health)[-1].stages)


def busy(scale: Scale) -> list[Row]:
    """Sixty busy processes of the same priority, with recorder and history."""
    with folder() as here:
        path = speech(here, scale.busy_s + 10.0)
        flags = [f"--source=file:{path}", f"--record={here / 'tape'}"]
        with Scene(*flags, f"--history={here / 'history.sqlite'}") as scene:
            scene.await_results(2)
            load = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)
            ]
            try:
                time.sleep(scale.busy_s)
                average = psutil.getloadavg()[0]
            finally:
                for one in load:
                    one.kill()
                    one.wait()
            received = scene.end()
        equal = received.stream() == offline(path)
        samples, gaps = samples_from(here / "tape" / "main", 0)
        whole = not gaps and messages_of(samples, [(0, BUNDLE)]) == received.stream()
    lags = [
        stage.heartbeat_age_s or 0.0
        for health in received.fresh(public.Health)
        for stage in health.stages
    ]
    lost = losses(received)
    return [
        Row(
            f"{BUSY} busy processes for {scale.busy_s:g} s on {psutil.cpu_count()} cores",
            "no stage killed, nothing lost",
            f"load {average:.0f}; {restarts(received)} restarts, oldest heartbeat "
            f"{max(lags):.1f} s; {'same' if equal else 'OTHER'} messages, "
            f"{'every sample' if whole else 'NOT EVERY SAMPLE'} recorded, "
            f"lost: {lost or 'nothing'}",
            equal and whole and not restarts(received) and not lost,
        )
    ]


LOSSES = (
    "record_lost",
    "record_messages_lost",
    "history_lost",
    "history_unwritten",
    "dashboard_lost",
    "windows_overrun",
    "samples_overrun",
)


def losses(received: Received) -> dict[str, int]:
    """Counters of losses that are not 0."""
    counters = received.fresh(public.Health)[-1].counters
    return {name: counters[name] for name in LOSSES if counters.get(name, 0)}


@contextlib.contextmanager
def disk(here: Path) -> Iterator[Path]:
    """An ext4 file system in a file, mounted; it can be frozen. Needs root and loop devices."""
    image, mounted = here / "disk.img", here / "disk"
    with image.open("wb") as file:
        file.truncate(IMAGE_MB << 20)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["fsfreeze", "-u", mounted], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["umount", mounted], check=True)


def can_mount() -> bool:
    """Whether `disk` works here."""
    if not all(shutil.which(name) for name in ("mkfs.ext4", "mount", "fsfreeze")):
        return False
    try:
        with folder() as here, disk(here):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


def stalled_disk(scale: Scale) -> list[Row]:
    """The disk of recording and history does not answer for a while: `fsfreeze` of an ext4."""
    if not can_mount():
        return [Row("the disk stalls", "-", "not tried: no right to mount a disk here", True)]
    times = FROZEN_S if scale.kills >= 20 else FROZEN_S[:1]
    return [*(_stalled(seconds) for seconds in times), _stopped_on_stalled()]


def _stopped_on_stalled() -> Row:
    with folder() as here, disk(here) as mounted:
        path = speech(here, 60.0)
        flags = [f"--source=file:{path}", f"--record={mounted / 'tape'}"]
        with Scene(*flags, f"--history={mounted / 'history.sqlite'}") as scene:
            scene.await_results(6)
            subprocess.run(["fsfreeze", "-f", mounted], check=True)
            time.sleep(2.0)
            since = time.monotonic()
            scene.running.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                scene.running.process.wait(STOPPED_S)
            took = time.monotonic() - since
            subprocess.run(["fsfreeze", "-u", mounted], check=True)
            code, stderr, received = scene.running.ended()
    results = received.fresh(public.Result)
    reported = "disk does not answer" in stderr and "Traceback" not in stderr
    return Row(
        "SIGTERM while the disk of recording and history does not answer",
        f"exit 0 within {STOPPED_S:g} s, the cause is reported, no message missing",
        f"exit {code} after {took:.1f} s, cause {'reported' if reported else 'NOT REPORTED'}, "
        f"{'no message' if in_order(results) else 'MESSAGES'} missing",
        code == 0 and took < STOPPED_S and reported and in_order(results),
    )


def _stalled(seconds: float) -> Row:
    with folder() as here, disk(here) as mounted:
        path = speech(here, seconds + 15.0)
        flags = [f"--source=file:{path}", f"--record={mounted / 'tape'}"]
        with Scene(*flags, f"--history={mounted / 'history.sqlite'}") as scene:
            scene.await_results(6)
            subprocess.run(["fsfreeze", "-f", mounted], check=True)
            time.sleep(seconds)
            subprocess.run(["fsfreeze", "-u", mounted], check=True)
            received = scene.end()
        equal = received.stream() == offline(path)
        samples, gaps = samples_from(mounted / "tape" / "main", 0)
    results = received.fresh(public.Result)
    missing = sum(end - start for start, end in gaps)
    lost = losses(received)
    counted = lost.pop("record_lost", 0)
    held = equal and in_order(results) and not restarts(received) and not lost
    held &= missing == counted and (counted == 0 or seconds > 25.0)
    return Row(
        f"the disk of recording and history does not answer for {seconds:g} s (fsfreeze)",
        "no stage killed; history complete; recorded what the ring of 30 s still holds, the rest "
        "declared and counted",
        f"{restarts(received)} restarts, {'same' if equal else 'OTHER'} messages; "
        f"{missing / RATE:.1f} s of {len(samples) / RATE:.1f} s of sound missing, "
        f"{counted / RATE:.1f} s counted; else lost: {lost or 'nothing'}",
        held,
    )
