"""What every fault needs: a pipeline, something to hear, and what a subscriber learnt and when."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from numpy.typing import NDArray

from speech_emotion.common.closing import Closing
from speech_emotion.common.wire import codec, public
from tests.support.pipelines import (
    DEMO,
    SUPERVISOR,
    Received,
    Running,
    leftovers,
    nothing_left_but,
    wait_until,
)
from tests.support.pulse import VirtualMicrophone

RATE = 16000
REPORTED_S = 3.0
"""A fault is to be named in `health` within this."""
BACK_S = 3.0
"""Results are to be there again within this."""
RETURN_S = 5.0
"""A source is to be live again within this after its return."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        fault: what was done.
        bound: what is asked for.
        measured: what came out.
        held: whether the bound was kept.
        load: load average of the machine (1 min) before the part began; None: not known.
        figures: `measured` in short, for the table of network sources; there the fault begins with
            the kind of source and a colon.
    """

    fault: str
    bound: str
    measured: str
    held: bool
    load: float | None = None
    figures: str = ""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of it: the whole table, or a quick look.

    Attributes:
        kills: of each stage.
        load_s: seconds with both cores loaded.
        away_s: seconds without a microphone, on a ring of 5 s.
        messages: random and mutated ones.
        soak_h: hours of audio at full speed.
        soak_restarts: of every stage meanwhile.
        events: random ones, in real time and as many at full speed.
        seed: of those events.
        busy_s: seconds with 60 busy processes.
        crowd_s: seconds under greedy subscribers.
    """

    kills: int = 20
    load_s: float = 300.0
    away_s: float = 15.0
    messages: int = 100_000
    soak_h: float = 24.0
    soak_restarts: int = 100
    events: int = 500
    seed: int = 14
    busy_s: float = 60.0
    crowd_s: float = 30.0
    pause_s: float = 600.0
    drift_s: float = 300.0


QUICK = Scale(
    kills=2,
    load_s=10.0,
    away_s=8.0,
    messages=5_000,
    soak_h=2.0,
    soak_restarts=3,
    events=25,
    busy_s=10.0,
    crowd_s=5.0,
    pause_s=20.0,
    drift_s=75.0,
)


class Scene(Closing):
    """A pipeline and its subscriber, in a folder that goes away with it; nothing may stay behind.

    Args:
        flags: of `supervisor.py`.
        microphone: hears it.
        env: environment beside the microphone's.
        program: what to run in place of `supervisor.py`.
    """

    def __init__(
        self,
        *flags: str,
        microphone: VirtualMicrophone | None = None,
        env: dict[str, str] | None = None,
        program: tuple[str, ...] = SUPERVISOR,
    ) -> None:
        heard = microphone.env if microphone is not None else {}
        self._before = leftovers()
        self.running = Running(*flags, env={**heard, **(env or {})}, program=program)

    def close(self) -> None:
        self.running.end()
        if self.running.process.returncode >= 0:
            nothing_left_but(self._before)

    @property
    def received(self) -> Received:
        return self.running.received

    def results(self) -> list[public.Result]:
        return self.received.fresh(public.Result)

    def health(self) -> public.Health | None:
        """The newest."""
        all_of_it = self.received.fresh(public.Health)
        return all_of_it[-1] if all_of_it else None

    def await_results(self, count: int = 1) -> None:
        self.running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= count)

    def await_health(
        self, reported: Callable[[public.Health], bool], what: str, since: float | None = None
    ) -> tuple[float, public.Health]:
        """Seconds from `since` (CLOCK_MONOTONIC; default: now) until `health` says it."""
        since = time.monotonic() if since is None else since
        return self._await(
            lambda message: isinstance(message, public.Health) and reported(message), since, what
        )

    def await_sound_of(self, moment: float, since: float) -> float:
        """Seconds from `since` until a result came, no gap, whose window ended after `moment`.

        Args:
            moment: unix time.
        """

        def fits(message: codec.Message) -> bool:
            return (
                isinstance(message, public.Result)
                and message.state != "gap"
                and message.time is not None
                and message.time > moment
            )

        return self._await(fits, since, "results again")[0]

    def _await(self, fits: Callable[[Any], bool], since: float, what: str) -> tuple[float, Any]:
        found: list[tuple[float, Any]] = []
        looked = 0

        def there() -> bool:
            nonlocal looked
            messages = self.received.messages
            while looked < len(messages):
                message, replay, came = messages[looked]
                looked += 1
                if came >= since and not replay and fits(message):
                    found.append((came - since, message))
                    return True
            return False

        wait_until(there, what)
        return found[0]

    def stop(self) -> Received:
        """End in order; everything that came.

        Raises:
            RuntimeError: it did not end well.
        """
        self.running.process.terminate()
        return self.end()

    def end(self) -> Received:
        """The end of the source; everything that came."""
        code, stderr, received = self.running.ended()
        if code != 0:
            raise RuntimeError(f"exit code {code}: {stderr}")
        return received


def late_program(start: int) -> tuple[str, ...]:
    """A supervisor whose streams begin at the sample `start`, as after a long run."""
    return (
        "-c",
        "import functools, os, sys; sys.path.insert(0, os.getcwd()); "
        "import speech_emotion.supervision.resources as resources; "
        "resources.create_ring = functools.partial(resources.create_ring, "
        f"start_index={start}); "
        "import speech_emotion.supervisor; sys.exit(speech_emotion.supervisor.main())",
    )


def shifted(messages: list[dict[str, Any]], hops: int) -> list[dict[str, Any]]:
    """The messages from window `hops` on, numbered from 0."""
    start = hops * (RATE // 2)
    return [
        {
            **row,
            "seq": row["seq"] - hops,
            "start": row["start"] - start,
            "end": row["end"] - start,
        }
        for row in messages
        if row["seq"] >= hops
    ]


def first_difference(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> str | None:
    """The first place at which two lists of messages differ."""
    for number, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one != other:
            keys = [key for key in one if one[key] != other.get(key)]
            return f"message {number} (seq {one['seq']}, {other['seq']}) differs in {keys}"
    if len(got) != len(expected):
        return f"{len(got)} messages instead of {len(expected)}"
    return None


def in_order(results: list[public.Result]) -> bool:
    """Whether no result is missing and none is there twice."""
    expected = 0
    for result in results:
        if result.seq != expected:
            return False
        expected = result.next_seq
    return True


def speech(folder: Path, seconds: float) -> Path:
    """The demo clip over and over, as a file of so many seconds."""
    samples, rate = soundfile.read(DEMO, dtype="int16")
    path = folder / f"speech-{seconds:g}.w64"  # a WAV ends at 4 GB
    with soundfile.SoundFile(path, "w", rate, 1, subtype="PCM_16", format="W64") as file:
        left = round(seconds * rate)
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)
    return path


def noise(folder: Path, seconds: float, seed: int = 0) -> tuple[Path, NDArray[np.int16]]:
    """Loud enough noise, whose every few samples are found nowhere else in it."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(-3000, 3000, round(seconds * RATE)).astype(np.int16)
    path = folder / f"noise-{seconds:g}-{seed}.wav"
    soundfile.write(path, samples, RATE)
    return path, samples


@contextlib.contextmanager
def microphone() -> Iterator[VirtualMicrophone]:
    """A virtual microphone that runs; a fault may have killed it already."""
    mic = VirtualMicrophone()
    try:
        mic.start()
        yield mic
    finally:
        mic.close()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder for sound files, on disk."""
    with tempfile.TemporaryDirectory(prefix="sep-chaos-", dir="/var/tmp") as name:
        yield Path(name)


@contextlib.contextmanager
def loaded_cores() -> Iterator[None]:
    """A busy loop on every core."""
    load = [
        psutil.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(psutil.cpu_count() or 2)
    ]
    try:
        yield
    finally:
        for one in load:
            one.kill()
            one.wait()


def spread(seconds: list[float]) -> str:
    """Median and longest of some times."""
    return f"median {np.median(seconds):.2f} s, longest {max(seconds):.2f} s"


def source_fault(
    scene: Scene,
    name: str,
    break_it: Callable[[], object],
    mend_it: Callable[[], object],
    *,
    settled_s: float,
    absent_s: float,
    reported_s: float = REPORTED_S,
    named: Callable[[public.StreamHealth], bool] = lambda stream: stream.state != "live",
) -> Row:
    """Break a live source, and bring it back.

    Args:
        settled_s: seconds for which it is live before.
        absent_s: seconds for which it is absent: several attempts are in vain.
        reported_s: longest time until it is reported.
        named: whether the fault is reported.
    """
    scene.await_health(
        lambda h: h.streams[0].state == "live" and not named(h.streams[0]), "the source to be live"
    )
    time.sleep(settled_s)
    since = time.monotonic()
    break_it()
    reported, health = scene.await_health(
        lambda h: named(h.streams[0]), f"{name} to be reported", since
    )
    row = health.streams[0]
    time.sleep(absent_s)
    mend_it()
    since = time.monotonic()
    back, _ = scene.await_health(
        lambda h: h.state == "ok" and h.streams[0].state == "live" and not named(h.streams[0]),
        "live again",
        since,
    )
    return Row(
        name,
        f"named within {reported_s:g} s; live within {RETURN_S:g} s of its return",
        f"`{row.state}` after {reported:.2f} s ({row.reason}); live {back:.2f} s after its return",
        reported <= reported_s and back <= RETURN_S,
        figures=f"{reported:.2f} / {back:.2f}",
    )
