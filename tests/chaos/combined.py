"""Everything at once: random events over three streams of three file formats.

    python -m tests.chaos --only combined --seed 7      # the same events again

Afterwards every message, every recorded sample and every row of the history is accounted for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.supervision.control_socket import running
from tests.chaos.events import Disturber, Event, schedule
from tests.chaos.scene import RATE, Row, Scale, first_difference, folder
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    Received,
    Running,
    Subscriber,
    comparable,
    leftovers,
    nothing_left_but,
    wait_until,
)
from tests.support.swaps import OTHER, exchanges, messages_of
from tools.ports import free_port

BUNDLES = {"small": BUNDLE, "other": OTHER}
FORMATS = (("wav", 16000, 1, "PCM_16"), ("flac", 44100, 2, "PCM_24"), ("mp3", 22050, 1, None))
"""Suffix, rate in Hz, channels, subtype."""
PAUSE_S = {"realtime": 0.55, "max": 0.45}
"""Seconds between two events, on average."""
FILE_S = {"realtime": 1200.0, "max": 1200.0}
"""Length of the files. In real time the pipeline is stopped in order before their end; at full
speed they end, and the rest of the events meets another pipeline."""
TAIL_S = 1.0
"""An ordered stop empties the resampler: the last samples are others than in the middle."""
NEVER = ("history_unwritten", "windows_overrun", "samples_overrun", "infer_utterances_cut")
"""Counters of losses that none of the events excuses."""


@dataclasses.dataclass
class Found:
    """What one pipeline did under its events.

    Attributes:
        problems: what broke the promise, in words; empty if nothing did.
        results: published results of all streams.
        seconds: of sound.
        events: by kind.
        missing: windows without a result in the recordings and in the history; all counted.
        swaps: answers to requests for another bundle, by their first words.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    results: int = 0
    seconds: float = 0.0
    events: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: dict[str, int] = dataclasses.field(default_factory=dict)
    swapped: int = 0
    restarts: int = 0

    def add(self, other: Found) -> None:
        self.problems += other.problems
        self.results += other.results
        self.seconds += other.seconds
        self.swapped += other.swapped
        self.restarts += other.restarts
        for name in ("events", "missing"):
            table = getattr(self, name)
            for key, number in getattr(other, name).items():
                table[key] = table.get(key, 0) + number


def combined(scale: Scale) -> list[Row]:
    """The row in real time and the one at full speed."""
    return [row(speed, scale.seed, scale.events) for speed in ("realtime", "max")]


def row(speed: str, seed: int, events: int, pause: float | None = None) -> Row:
    """One row; its events come from the seed alone.

    Args:
        pause: seconds between two events, on average; None: as in the table.
    """
    found = Found()
    with folder() as here:
        paths = sounds(here, min(FILE_S[speed], 30.0 + 3.0 * events))
        plan, rounds = schedule(seed, events, pause or PAUSE_S[speed]), 0
        while (done := sum(found.events.values())) < events and not found.problems:
            one = here / f"round-{rounds}"
            one.mkdir()
            rounds += 1
            print(f"       {speed}, seed {seed}: from event {done} of {events}", flush=True)
            found.add(disturbed(one, paths, speed, plan[done:]))
            shutil.rmtree(one)
    done = sum(found.events.values())
    missing = ", ".join(f"{number} in the {where}" for where, number in found.missing.items())
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.events.items()))
    what = {"realtime": "in real time", "max": "at full speed"}[speed]
    return Row(
        f"{done} random events {what}, WAV, FLAC and MP3 at once (seed {seed})",
        "messages as offline, each of the bundle that it names; every sample recorded; recordings "
        "and history complete but for windows that are counted; nothing left behind",
        f"{kinds}; {found.restarts} restarts, {found.swapped} swaps; {found.results} results of "
        f"{found.seconds:.0f} s of sound: "
        + ("; ".join(found.problems[:3]) or f"all right; counted as missing: {missing}"),
        not found.problems and done == events,
    )


def sounds(here: Path, seconds: float) -> dict[str, Path]:
    """Stream → its file: the demo clip over and over, from another place in each."""
    samples, rate = soundfile.read(DEMO, dtype="float32")
    paths = {}
    for number, (suffix, file_rate, channels, subtype) in enumerate(FORMATS):
        turned = np.roll(samples, -number * len(samples) // len(FORMATS))
        block = soxr.resample(turned, rate, file_rate)[:, np.newaxis].repeat(channels, axis=1)
        paths[suffix] = here / f"sound.{suffix}"
        with soundfile.SoundFile(paths[suffix], "w", file_rate, channels, subtype) as file:
            left = round(seconds * file_rate)
            while left > 0:
                file.write(block[:left])
                left -= len(block)
    return paths


def disturbed(here: Path, paths: dict[str, Path], speed: str, plan: list[Event]) -> Found:
    """Run a pipeline under events, stop it in order, and check everything."""
    before = leftovers()
    port = free_port()
    config = here / "box.toml"
    lines = [f"speed = '{speed}'", f"record = '{here / 'tape'}'"]
    lines += ["[history]", f"file = '{here / 'history.sqlite'}'"]
    lines += ["[dashboard]", f"listen = '127.0.0.1:{port}'"]
    for name, path in paths.items():
        lines += ["[[stream]]", f"name = '{name}'", f"source = 'file:{path}'"]
    config.write_text("\n".join(lines))
    pipeline = Running(f"--config={config}")
    found = Found()
    try:
        wait_until(lambda: pipeline.process.pid in running(), "the control socket")
        home = running()[pipeline.process.pid].parent
        inner = Subscriber(f"ipc://{home}/results")
        pipeline.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 2 * len(paths))
        disturber = Disturber(pipeline, home, pipeline.received.fresh(public.Result)[0].run)
        for event in plan:
            disturber.execute(event)
            if not disturber.alive:
                if speed == "realtime":
                    found.problems.append(f"the pipeline ended during {event}")
                break
        disturber.end()
        if disturber.alive:
            await_health(pipeline)
            check_page(port, found)
            pipeline.process.terminate()
        code, stderr, received = pipeline.ended()
        disturber.close()
        check_end(code, stderr, found)
        inside = with_replays(inner.finish(ended=True))
        found.events = dict(disturber.done)
        found.swapped = sum(answer.code == 0 for answer in disturber.swaps)
        if disturber.done["swap"] > 2 and not found.swapped:
            found.problems.append("no swap succeeded")
        check_counters(received, disturber, found)
        for name, path in paths.items():
            check_stream(name, path, here / "tape" / name, inside, received, found)
        check_missing(here, list(paths), inside, found)
    finally:
        pipeline.end()
    with contextlib.suppress(Exception):
        nothing_left_but(before)
        return found
    found.problems.append(f"left behind: {leftovers() - before}")
    return found


def with_replays(received: Received) -> Received:
    """What an inner subscriber got, also what was published before it came; each message once."""
    seen = set[tuple[type[Any], str, int]]()
    kept = Received()
    for message, replay, at in received.messages:
        if isinstance(message, public.Result | public.Utterance):
            key = type(message), message.stream, message.seq
            if key not in seen:
                seen.add(key)
                kept.messages.append((message, False, at))
        else:
            kept.messages.append((message, replay, at))
    return kept


def await_health(pipeline: Running) -> None:
    """Until a new `health` says that all is well, and results come again."""
    since = time.time()

    def well() -> bool:
        newest: list[public.Health] = pipeline.received.fresh(public.Health)[-1:]
        return any(h.time > since and h.state == "ok" for h in newest)

    wait_until(lambda: well() or pipeline.process.poll() is not None, "all to be well")
    enough = len(pipeline.received.fresh(public.Result)) + 6
    wait_until(
        lambda: (
            len(pipeline.received.fresh(public.Result)) >= enough
            or pipeline.process.poll() is not None
        ),
        "results",
    )


# Checks ---------------------------------------------------------------------------------------


def check_page(port: int, found: Found) -> None:
    """The page answers; it may just be restarting after the last event."""

    def answers() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    try:
        wait_until(answers, "the page to answer")
    except pytest.fail.Exception as error:
        found.problems.append(str(error))


def check_end(code: int, stderr: str, found: Found) -> None:
    if code:
        found.problems.append(f"exit code {code}: {stderr[-300:]}")
    if "Traceback" in stderr:
        found.problems.append(f"a traceback: {stderr[stderr.index('Traceback') :][:600]}")


def check_counters(received: Received, disturber: Disturber, found: Found) -> None:
    health = received.fresh(public.Health)[-1]
    found.restarts = sum(stage.restarts for stage in health.stages)
    for name in NEVER:
        if number := health.counters.get(name, 0):
            found.problems.append(f"{name} = {number}")
    refused = health.counters.get("hub_malformed", 0)
    if refused != disturber.sent["hub"]:
        found.problems.append(
            f"{disturber.sent['hub']} wrong messages at the hub, {refused} refused"
        )
    for stream in health.streams:
        if stream.lost:
            found.problems.append(f"{stream.name}: {stream.lost} samples lost")
    found.missing = {
        "recordings": health.counters.get("record_messages_lost", 0),
        "history": health.counters.get("history_lost", 0),
    }
    if health.counters.get("record_lost", 0):
        found.problems.append(f"record_lost = {health.counters['record_lost']}")


def check_stream(
    name: str, path: Path, tape: Path, inside: Received, outside: Received, found: Found
) -> None:
    """Sound as in the file, messages as offline, the same for both kinds of subscribers."""
    results: list[public.Result] = inside.fresh(public.Result, name)
    heard = read_recording(str(tape), RATE)
    found.results += len(results)
    found.seconds += len(heard.samples) / RATE
    if heard.gaps:
        found.problems.append(f"{name}: gaps in the recording {heard.gaps[:3]}")
    if not same_sound(path, heard.samples):
        found.problems.append(f"{name}: the recording differs from the file")
    plan = [(at, BUNDLES[bundle.partition("@")[0]]) for at, bundle in exchanges(results)]
    expected = messages_of(heard.samples, plan, name)
    if difference := first_difference(inside.stream(name), expected):
        found.problems.append(f"{name}: {difference}")
    if difference := first_difference(outside.stream(name), inside.stream(name)):
        found.problems.append(f"{name}, public endpoint: {difference}")


def same_sound(path: Path, heard: NDArray[np.float32]) -> bool:
    """Whether the samples are the first ones of a file, or all of it."""
    expected = read_recording(str(path), RATE).samples
    whole = len(heard) if len(heard) == len(expected) else len(heard) - round(TAIL_S * RATE)
    return whole <= len(expected) and np.array_equal(expected[:whole], heard[:whole])


def check_missing(here: Path, names: list[str], inside: Received, found: Found) -> None:
    """Recordings and history hold what was published, and count what they do not hold."""
    with HistoryReader(here / "history.sqlite") as reader:
        kept: dict[str, Callable[[str], dict[int, Any]]] = {
            "recordings": lambda name: recorded(here / "tape" / name),
            "history": lambda name: {
                row[0]: row[3] for row in reader.windows(name, 0.0, 1e11, 10**7)["rows"]
            },
        }
        for where, rows_of in kept.items():
            missing = 0
            for name in names:
                rows = rows_of(name)
                published = {
                    one.seq: comparable(one) if where == "recordings" else one.state
                    for one in inside.fresh(public.Result, name)
                }
                missing += len(published.keys() - rows.keys())
                if any(row != published.get(seq) for seq, row in rows.items()):
                    found.problems.append(f"{name}: {where} hold what was not published")
            if missing != found.missing[where]:
                counted = found.missing[where]
                found.problems.append(f"{where}: {missing} missing, {counted} counted")


def recorded(tape: Path) -> dict[int, dict[str, Any]]:
    """The recorded results of a stream, by window, as `comparable` gives them."""
    found = {}
    for line in (tape / "messages.jsonl").read_text().splitlines():
        table = json.loads(line)
        if table.pop("topic") == "result":
            for key in ("time", "timing_ms", "run"):
                del table[key]
            found[table["seq"]] = {"kind": "result", **table}
    return found
