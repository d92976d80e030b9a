"""features as a service with a real ring; the test acts as capture, infer and hub."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zmq

from speech_emotion.common.bundle.grid import missing_samples
from speech_emotion.common.errors import EXIT_FAULT
from speech_emotion.common.linux.eventfd import Wakeup
from speech_emotion.common.ring.layout import FOLDER
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.sockets import connect
from speech_emotion.features.extractor import windows_of
from speech_emotion.features.service import FeaturesService
from tests.support.extractors import BOX, EXTRACTORS, GRID, SPEC, Samples, speech, without_time
from tests.support.pipelines import PATIENCE_S, fresh_endpoint
from tests.support.sockets import KeepingContext

CAPACITY = 6 * SPEC.window


class Switch:
    """A stop request for the loop of a stage."""

    def __init__(self) -> None:
        self.requested = False
        self.wakeup = Wakeup()

    def fileno(self) -> int:
        return self.wakeup.fileno()

    def set(self) -> None:
        self.requested = True
        self.wakeup.set()


class Rig:
    """A features service in a thread; the test acts as capture, infer and hub."""

    def __init__(self) -> None:
        self.begin()
        self.endpoint, hub = fresh_endpoint(), fresh_endpoint()
        self.context = KeepingContext()
        self.hub = self.context.socket(zmq.ROUTER)
        self.hub.bind(hub)
        self.switch = Switch()
        self.to_hub = connect(self.context, hub, "hub")
        service = FeaturesService(BOX, EXTRACTORS, self.endpoint, self.to_hub, self.context)
        stop = cast(StopRequest, self.switch)
        self.exit_codes: list[int] = []
        self.thread = threading.Thread(
            target=lambda: self.exit_codes.append(service.run(stop)), daemon=True
        )
        self.thread.start()
        self.capture = connect(self.context, self.endpoint, "features")
        self.infer = connect(self.context, self.endpoint, "features")
        self.hub_file = Path(hub.removeprefix("ipc://"))

    def begin(self) -> None:
        """Start a run with its ring."""
        self.ring: RingOwner = create_ring(
            "main", sample_rate=SPEC.sample_rate, capacity=CAPACITY, run=secrets.token_hex(8)
        )
        self.writer = RingWriter.attach(self.ring.name)

    def end(self) -> None:
        self.writer.close()
        self.ring.unlink()

    def tick(self, *, ended: bool = False) -> None:
        self.send_tick(position=self.writer.index, ended=ended)

    def send_tick(self, **other: Any) -> None:
        plain = internal.Tick(
            stream="main",
            run=self.ring.run,
            ring=self.ring.name,
            generation=1,
            position=0,
            ended=False,
            anchor_index=0,
            anchor_monotonic=0.0,
            anchor_unix=None,
            gaps=[[a, b] for a, b in self.writer.gaps()],
        )
        self.capture.send(internal.encode(dataclasses.replace(plain, **other)))

    def want(
        self, first: int, limit: int, *, session: str = "s", gate: list[float] | None = None
    ) -> None:
        message = internal.Credit("main", self.ring.run, session, first, limit, gate or [], BOX.id)
        self.infer.send(internal.encode(message))

    def answer(self) -> codec.Message:
        assert self.infer.poll(round(PATIENCE_S * 1000))
        return internal.decode(self.infer.recv())

    def take(self, count: int) -> list[internal.Window]:
        windows: list[internal.Window] = []
        while len(windows) < count:
            answer = self.answer()
            if isinstance(answer, internal.Window):
                windows.append(answer)
        return windows

    def take_all(self) -> list[internal.Window]:
        """All windows up to the end of the stream."""
        windows = self.take(1)
        while windows[-1].kind != "end":
            windows += self.take(1)
        return windows

    def health(self, counter: str) -> internal.Heartbeat:
        """The first heartbeat in which `counter` is not zero."""
        while self.hub.poll(round(PATIENCE_S * 1000)):
            beat = internal.decode(self.hub.recv_multipart()[1])
            assert isinstance(beat, internal.Heartbeat)
            if beat.counters.get(counter):
                return beat
        pytest.fail(f"no {counter}")

    def close(self) -> None:
        self.switch.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.end()
        self.context.destroy(linger=0)
        self.hub_file.unlink()
        # A stage that another program stops has not lost its socket file: see `Resources.removed`.
        Path(self.endpoint.removeprefix("ipc://")).unlink()


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.close()


def analyzed(samples: Samples, first: int = 0, gaps: list[list[int]] | None = None) -> list[Any]:
    """The expected analysis of a recording's windows from window `first` on."""
    analyzer, rows = EXTRACTORS(), []
    for k, window in windows_of(samples, GRID):
        if k >= first:
            missing = missing_samples(gaps or [], GRID.start(k), GRID.end(k))
            rows.append((k, missing, without_time(analyzer.analyze(window, missing=missing))))
    return rows


def analysis_of(windows: list[internal.Window]) -> list[Any]:
    """The analysis in messages, comparable with `analyzed`."""
    return [
        (
            window.seq,
            window.lost,
            {
                "kind": window.kind,
                "rms_db": window.rms_db,
                "clipped": window.clipped,
                "features": window.features,
                "track": window.track,
                "gate": window.gate,
                "milliseconds": 0.0,
            },
        )
        for window in windows
    ]


def check_grid(windows: list[internal.Window]) -> None:
    """No `seq` is missing or repeated, and each span belongs to its `seq`."""
    following = windows[0].seq
    for window in windows:
        assert window.seq == following
        assert window.start == GRID.start(window.seq)
        following = window.next_seq
        if window.kind != "end":
            assert window.end == GRID.end(following - 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_blocks_of_any_size_give_the_windows_of_the_recording(
    rig: Rig, demo: tuple[Samples, int], seed: int
) -> None:
    samples = speech(demo, 12.0)
    expected = analyzed(samples)
    assert {rows["kind"] for _, _, rows in expected} == {"speech", "silence"}
    rng = np.random.default_rng(seed)
    windows: list[internal.Window] = []
    rig.want(0, len(expected) + 1)
    at = 0
    while at < len(samples):
        block = samples[at : at + int(rng.integers(1, SPEC.window))]
        at += len(block)
        rig.writer.write(block)
        rig.tick(ended=at == len(samples))
        windows += rig.take(GRID.complete(at) - len(windows))
    windows += rig.take(1)
    check_grid(windows)
    assert analysis_of(windows[:-1]) == expected
    assert (windows[-1].kind, windows[-1].seq) == ("end", len(expected))


def test_features_sends_no_window_past_the_limit_of_the_credit(
    rig: Rig, demo: tuple[Samples, int]
) -> None:
    rig.writer.write(speech(demo, 1e9)[: GRID.end(7)])
    rig.tick()
    rig.want(0, 3)
    assert [window.seq for window in rig.take(3)] == [0, 1, 2]
    for _ in range(3):  # any further window would arrive between these answers
        rig.want(0, 3)
        assert rig.answer() == internal.SentUpTo("main", "s", 3)
    rig.want(2, 5)
    assert [window.seq for window in rig.take(2)] == [3, 4]


def test_a_new_session_resumes_from_its_checkpoint(rig: Rig, demo: tuple[Samples, int]) -> None:
    samples = speech(demo, 1e9)[: GRID.end(7)]
    rig.writer.write(samples)
    rig.tick(ended=True)
    rig.want(0, 100)
    undisturbed = rig.take_all()
    for k in (0, 3, 7, 8):
        rig.want(k, 100, session=f"from {k}", gate=undisturbed[k - 1].gate if k else [])
        again = rig.take_all()
        assert {window.session for window in again} == {f"from {k}"}
        assert analysis_of(again) == analysis_of(undisturbed[k:])


def test_less_than_a_tenth_missing_is_analysed_and_more_is_a_gap(
    rig: Rig, demo: tuple[Samples, int]
) -> None:
    samples = speech(demo, 1e9)[2 * SPEC.window : 2 * SPEC.window + GRID.end(6)].copy()
    small, large = SPEC.window // 20, SPEC.window // 2
    gaps = [[SPEC.window // 3, SPEC.window // 3 + small], [GRID.start(4), GRID.start(4) + large]]
    at = 0
    for a, b in gaps:
        samples[a:b] = 0.0
        rig.writer.write(samples[at:a])
        rig.writer.gap(b - a)
        at = b
    rig.writer.write(samples[at:])
    rig.tick(ended=True)
    rig.want(0, 100)
    windows = rig.take_all()
    check_grid(windows)
    assert analysis_of(windows[:-1]) == analyzed(samples, gaps=gaps)
    assert windows[0].lost == small
    assert windows[0].kind != "gap"
    assert windows[4].kind == "gap"
    assert not any(window.skipped for window in windows)


def test_overwritten_windows_are_declared_and_counted(rig: Rig, demo: tuple[Samples, int]) -> None:
    samples = speech(demo, 1e9)[: 3 * CAPACITY - 777]
    for at in range(0, len(samples), SPEC.hop):
        rig.writer.write(samples[at : at + SPEC.hop])
    rig.tick(ended=True)
    rig.want(0, 10_000)
    jump, *rest = rig.take_all()
    check_grid([jump, *rest])
    first = jump.next_seq
    assert (jump.kind, jump.features, jump.lost) == ("gap", None, GRID.start(first))
    # It resumes half a ring before the write position: with time to spare, and with few losses.
    assert GRID.start(first - 1) < len(samples) - CAPACITY // 2 <= GRID.start(first)
    assert analysis_of(rest[:-1]) == analyzed(samples, first)
    beat = rig.health("windows_overrun")
    assert beat.drops == beat.counters["windows_overrun"] == first
    assert beat.counters["samples_overrun"] == GRID.start(first)


@pytest.mark.parametrize("into", [0.0, 0.3, 0.7, 0.99])
def test_a_gap_longer_than_the_ring_is_one_message(
    rig: Rig, demo: tuple[Samples, int], into: float
) -> None:
    before = GRID.end(3) + round(into * SPEC.hop)
    length = 3 * CAPACITY + 1234
    sound = speech(demo, 1e9)
    after = sound[: GRID.end(5)]
    samples = np.concatenate([sound[:before], np.zeros(length, np.float32), after])
    gaps = [[before, before + length]]

    rig.writer.write(sound[:before])
    rig.tick()
    rig.want(0, 10_000)
    windows = rig.take(4)
    rig.writer.gap(length)
    rig.tick()
    windows += rig.take(1)
    rig.writer.write(after)
    rig.tick(ended=True)
    windows += rig.take_all()

    check_grid(windows)
    (jump,) = [window for window in windows if window.skipped]
    assert jump == windows[4]
    assert (jump.kind, jump.features) == ("gap", None)
    if GRID.is_gap(GRID.end(4) - before):
        assert jump.lost == missing_samples(gaps, jump.start, jump.end)
    else:  # little of it was missing, but the gap overwrote the rest
        assert jump.lost == GRID.start(jump.next_seq) - jump.start
    # All windows after the gap are analysed, as at the start of a stream.
    voided = [
        k
        for k in range(GRID.total(len(samples)))
        if GRID.is_gap(missing_samples(gaps, GRID.start(k), GRID.end(k)))
    ]
    assert jump.next_seq == voided[-1] + 1
    assert analysis_of(windows[:4]) == analyzed(samples)[:4]
    assert analysis_of(windows[5:-1]) == analyzed(samples, jump.next_seq, gaps)
    assert windows[-1].seq == GRID.total(len(samples))


def test_a_stream_that_ends_in_a_long_gap_has_no_windows_after_its_end(
    rig: Rig, demo: tuple[Samples, int]
) -> None:
    rig.writer.write(speech(demo, 1e9)[: SPEC.window])
    rig.writer.gap(2 * CAPACITY)
    rig.tick(ended=True)
    rig.want(1, 10_000)
    jump, end = rig.take_all()
    check_grid([jump, end])
    assert end.seq == GRID.total(rig.writer.index)


def test_a_source_shorter_than_a_window_is_filled_with_silence(
    rig: Rig, demo: tuple[Samples, int]
) -> None:
    sound = speech(demo, 1e9)[2 * SPEC.window :]
    rig.writer.write(sound[: SPEC.window])
    rig.tick()
    rig.want(0, 10)
    rig.take(1)  # none of its samples may remain in the next one
    rig.end()
    rig.begin()
    samples = sound[: SPEC.window // 2]
    rig.writer.write(samples)
    rig.tick(ended=True)
    rig.want(0, 10, session="t")
    window, end = rig.take_all()
    assert analysis_of([window]) == analyzed(samples)
    assert (window.start, window.end) == (0, SPEC.window)
    assert (end.seq, end.end) == (1, len(samples))


def test_a_source_without_sound_is_only_an_end(rig: Rig) -> None:
    rig.tick(ended=True)
    rig.want(0, 10)
    (end,) = rig.take_all()
    assert (end.kind, end.seq) == ("end", 0)


def test_time_is_that_of_the_last_sample(rig: Rig, demo: tuple[Samples, int]) -> None:
    rig.writer.write(speech(demo, 1e9)[: GRID.end(1)])
    anchor = {"anchor_index": 100, "anchor_monotonic": 50.0, "anchor_unix": 1e9}
    rig.send_tick(position=GRID.end(1), **anchor)
    rig.want(0, 2)
    for window in rig.take(2):
        since = (window.end - 100) / SPEC.sample_rate
        assert (window.captured, window.time) == (50.0 + since, 1e9 + since)


def test_a_malformed_message_is_only_counted(rig: Rig, demo: tuple[Samples, int]) -> None:
    rig.infer.send(b"rubbish")
    rig.infer.send(internal.encode(internal.Hello("infer", "")))
    rig.infer.send_multipart([b"a", b"b"])
    rig.want(-1, 5)
    rig.want(0, 5, gate=[1.0] * 99)
    rig.send_tick(gaps=[[1, 2, 3]])
    rig.send_tick(position=10**9, ring="sep.1.1.main")
    rig.writer.write(speech(demo, 1e9)[: SPEC.window])
    rig.want(0, 5)
    assert rig.health("features_rings_refused").counters["features_malformed"] == 6
    rig.tick()
    assert [window.seq for window in rig.take(1)] == [0]


def remove(rig: Rig) -> None:
    rig.ring.unlink()


def replace(rig: Rig) -> None:
    """Another file under the ring's name."""
    rig.ring.unlink()
    (FOLDER / rig.ring.name).write_bytes(b"\0" * 8192)


@pytest.mark.parametrize("take_away", [remove, replace])
@pytest.mark.parametrize("attached", [True, False])
def test_a_removed_ring_ends_the_stage_with_a_restartable_error(
    rig: Rig,
    demo: tuple[Samples, int],
    caplog: pytest.LogCaptureFixture,
    take_away: Callable[[Rig], None],
    attached: bool,
) -> None:
    rig.writer.write(speech(demo, 1e9)[: GRID.end(1)])
    assert not rig.ring.removed()
    if attached:
        rig.tick()
        rig.want(0, 10)
        rig.take(2)
    take_away(rig)
    assert rig.ring.removed()
    assert rig.writer.removed()
    rig.writer.write(speech(demo, 1e9)[: SPEC.hop])
    rig.tick()
    rig.want(0, 10)
    rig.thread.join(PATIENCE_S)
    assert rig.exit_codes == [EXIT_FAULT]
    assert "stream main: its ring was removed from /dev/shm" in caplog.text


def test_a_new_run_starts_at_window_0(rig: Rig, demo: tuple[Samples, int]) -> None:
    samples = speech(demo, 1e9)[: GRID.end(2)]
    rig.writer.write(samples)
    rig.tick()
    rig.want(0, 100)
    first = rig.take(3)
    rig.end()
    rig.begin()
    rig.writer.write(samples)
    rig.tick()
    rig.want(0, 100, session="t")
    again = rig.take(3)
    assert {window.run for window in again} == {rig.ring.run}
    assert analysis_of(again) == analysis_of(first)
