"""Random events for a running pipeline: a schedule from a seed, and its execution.

The schedule depends on the seed alone, so a run can be repeated; what it meets depends on time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import secrets
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import control_messages
from tests.support.pipelines import BUNDLE, PATIENCE_S, Running, wait_until
from tests.support.rubbish import rubbish
from tests.support.swaps import OTHER, ask_swap

STAGES = ("capture", "features", "infer", "record", "history", "dashboard")
WEIGHTS = {
    "kill": 30,
    "stop": 12,
    "hang": 2,
    "stop supervisor": 6,
    "swap": 8,
    "garbage inside": 10,
    "garbage outside": 10,
    "subscribe": 9,
    "unsubscribe": 6,
    "subscribe, never read": 3,
    "storm": 4,
}
"""Kind of event → how often, in 100."""
QUICK_S = 6.0
"""A stage that dies sooner than this after its start has ended quickly."""
QUICK_DEATHS = 2
"""Kills in a row within a short time; more would only lengthen the backoff of the stage."""
HANG_S = 3.5
"""Longer than the supervisor waits for a heartbeat."""
LONG_STOP_S = 4.0
GARBAGE = 50
"""Messages of one event."""
STORM = 1500
"""Subscriptions and unsubscriptions of one event."""
MOST_SUBSCRIBERS = 30


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happens to a pipeline.

    Attributes:
        pause: seconds before it.
        kind: a key of `WEIGHTS`.
        stage: whom it happens to, where the kind has a victim.
        seconds: how long a stop lasts.
        seed: of the bytes that it sends.
    """

    pause: float
    kind: str
    stage: str = ""
    seconds: float = 0.0
    seed: int = 0


def schedule(seed: int, count: int, pause: float) -> list[Event]:
    """Events with random pauses around `pause` seconds; equal for equal arguments."""
    rng = random.Random(seed)
    now, events = 0.0, list[Event]()
    died: dict[str, tuple[float, int]] = {}  # stage → time and number of quick deaths in a row

    def may_die(stage: str) -> bool:
        last, quick = died.get(stage, (-QUICK_S, 0))
        return now - last >= QUICK_S or quick < QUICK_DEATHS

    def dies(stage: str, when: float) -> None:
        last, quick = died.get(stage, (-QUICK_S, 0))
        died[stage] = when, quick + 1 if when - last < QUICK_S else 0

    while len(events) < count:
        wait, kind = rng.uniform(0.2, 1.8) * pause, rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        stage, seconds = "", 0.0
        now += wait
        if kind in ("kill", "hang", "stop"):
            stage = rng.choice(STAGES)
            seconds = HANG_S if kind == "hang" else rng.uniform(0.05, 1.5)
            if kind != "stop" and not may_die(stage):
                kind = "stop"
            if kind != "stop":
                dies(stage, now + (seconds if kind == "hang" else 0.0))
        elif kind == "stop supervisor":
            seconds = LONG_STOP_S if rng.random() < 0.15 else rng.uniform(0.1, 1.5)
        elif kind == "swap":
            for one in ("features", "infer"):
                dies(one, now)
        events.append(Event(wait, kind, stage, seconds, rng.randrange(2**32)))
    return events


class Disturber:
    """Executes events on a pipeline. `end()` undoes what lasts.

    Args:
        pipeline: the pipeline.
        home: its runtime folder.
        run: id of the run of a stream, for messages that look real.

    Attributes:
        done: executed events by kind.
        sent: messages sent to internal sockets, by socket.
        swaps: the supervisor's answers.
    """

    def __init__(self, pipeline: Running, home: Path, run: str) -> None:
        self.done: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.swaps: list[control_messages.Swapped] = []
        self._pipeline = pipeline
        self._home = home
        self._run = run
        self._context: zmq.Context[Any] = zmq.Context()
        self._inside = {name: self._dealer(name) for name in ("hub", "features", "control")}
        self._subscribers: list[zmq.Socket[bytes]] = []
        self._connections: list[socket.socket] = []
        self._stopped: list[tuple[float, psutil.Process]] = []
        self._swap: threading.Thread | None = None
        self._next_bundle = OTHER

    def _dealer(self, name: str) -> zmq.Socket[bytes]:
        one: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        one.setsockopt(zmq.SNDHWM, 100_000)
        one.connect(f"ipc://{self._home}/{name}")
        return one

    @property
    def alive(self) -> bool:
        """Whether the pipeline runs."""
        return self._pipeline.process.poll() is None

    def execute(self, event: Event) -> None:
        """Wait for the pause of an event, then do it."""
        self._wait(event.pause)
        if not self.alive:
            return
        rng = random.Random(event.seed)
        match event.kind:
            case "kill":
                self._victim(event.stage).kill()
            case "stop" | "hang":
                self._stop(self._victim(event.stage), event.seconds)
            case "stop supervisor":
                self._stop(psutil.Process(self._pipeline.process.pid), event.seconds)
            case "swap":
                self._swap_bundle()
            case "garbage inside":
                self._garbage_inside(rng)
            case "garbage outside":
                self._garbage_outside(rng)
            case "subscribe" | "subscribe, never read":
                self._subscribe(rng, reads_nothing=event.kind == "subscribe, never read")
            case "unsubscribe":
                if self._subscribers:
                    self._subscribers.pop(rng.randrange(len(self._subscribers))).close(linger=0)
            case "storm":
                self._storm(rng)
        self.done[event.kind] += 1

    def end(self) -> None:
        """Continue everything that is stopped, end the subscribers, wait for a swap."""
        self._continue(all_of_them=True)
        for one in self._connections:
            one.close()
        if self._swap is not None:
            self._swap.join(PATIENCE_S)

    def close(self) -> None:
        """Close the sockets. Not before the end of the pipeline: a peer that disconnects takes
        along what it has sent and was not yet read."""
        self._context.destroy(linger=0)

    # Parts ----------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._continue()
            time.sleep(min(0.02, until - now))
        self._continue()

    def _continue(self, *, all_of_them: bool = False) -> None:
        now = time.monotonic()
        due = [one for one in self._stopped if all_of_them or one[0] <= now]
        self._stopped = [one for one in self._stopped if one not in due]
        for _, process in due:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)

    def _stop(self, process: psutil.Process, seconds: float) -> None:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGSTOP)
        self._stopped.append((time.monotonic() + seconds, process))

    def _victim(self, stage: str) -> psutil.Process:
        """A stage's process; waits for its start."""
        found: list[psutil.Process] = []

        def there() -> bool:
            self._continue()
            with contextlib.suppress(psutil.Error):
                found.extend(p for name, p in self._pipeline.stages().items() if name == stage)
            return bool(found) or not self.alive

        wait_until(there, f"{stage} to be started")
        return found[0] if found else _NoProcess()

    def _swap_bundle(self) -> None:
        if self._swap is not None and self._swap.is_alive():
            return  # the supervisor would say that it is busy
        bundle, self._next_bundle = self._next_bundle, _other_than(self._next_bundle)

        def swap() -> None:
            with contextlib.suppress(UserError):
                self.swaps.append(ask_swap(self._home / "control", bundle))

        self._swap = threading.Thread(target=swap, daemon=True)
        self._swap.start()

    def _garbage_inside(self, rng: random.Random) -> None:
        name = rng.choice([*self._inside])
        for frame in rubbish(rng, self._run, GARBAGE):
            with contextlib.suppress(zmq.Again):
                self._inside[name].send(frame, zmq.DONTWAIT)
                self.sent[name] += 1

    def _garbage_outside(self, rng: random.Random) -> None:
        if rng.random() < 0.5:
            publisher = self._context.socket(zmq.XSUB)
            publisher.connect(self._pipeline.endpoint)
            for _ in range(GARBAGE):
                with contextlib.suppress(zmq.Again):
                    publisher.send(rng.randbytes(rng.randrange(0, 600)), zmq.DONTWAIT)
            self._add(publisher)
            return
        for _ in range(5):
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(1.0)
            with contextlib.suppress(OSError):
                one.connect(self._pipeline.endpoint.removeprefix("ipc://"))
                one.sendall(rng.randbytes(rng.randrange(0, 600)))
            self._connections.append(one)
        while len(self._connections) > MOST_SUBSCRIBERS:
            self._connections.pop(0).close()

    def _subscribe(self, rng: random.Random, *, reads_nothing: bool) -> None:
        one = self._context.socket(zmq.SUB)
        if reads_nothing:
            one.setsockopt(zmq.RCVHWM, 1)
            one.setsockopt(zmq.RCVBUF, 1024)
        for topic in rng.sample([b"", b"result/", b"health", b"info", b"utterance/a"], 2):
            one.setsockopt(zmq.SUBSCRIBE, topic)
        one.connect(self._pipeline.endpoint)
        self._add(one)

    def _storm(self, rng: random.Random) -> None:
        one = self._context.socket(zmq.XSUB)
        one.setsockopt(zmq.SNDHWM, 2 * STORM)
        one.connect(self._pipeline.endpoint)
        topics = [b"result/", b"health", rng.randbytes(8), secrets.token_bytes(60)]
        for number in range(STORM):
            with contextlib.suppress(zmq.Again):
                one.send(bytes([number % 2]) + topics[number // 2 % 4], zmq.DONTWAIT)
        self._add(one)

    def _add(self, one: zmq.Socket[bytes]) -> None:
        self._subscribers.append(one)
        if len(self._subscribers) > MOST_SUBSCRIBERS:
            self._subscribers.pop(0).close(linger=0)


class _NoProcess(psutil.Process):
    """A process that has ended already."""

    def __init__(self) -> None: ...

    def send_signal(self, sig: int) -> None:
        """Nothing to signal."""

    def kill(self) -> None:
        """Nothing to kill."""


def _other_than(bundle: Path) -> Path:
    return BUNDLE if bundle == OTHER else OTHER
