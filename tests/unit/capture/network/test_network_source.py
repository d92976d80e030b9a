"""States, gaps and attempts of a network source, with connections that the test controls."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.sources.network.connection import Chunk, End, Retry
from speech_emotion.capture.sources.network.source import (
    AHEAD_S,
    ATTEMPT_S,
    LATER_S,
    Kind,
    NetworkSource,
)
from speech_emotion.capture.sources.network.stream import NetworkStream
from speech_emotion.capture.stream import SourceOptions, StreamJob
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.source_state import SourceState

RATE = 16000
FORMAT = StreamFormat(RATE, WindowGrid(16000, 8000))
PACKET = 320
STEP_S = 0.02
Pcm = NDArray[np.float32]


class Wire:
    """A connection whose chunks and end the test chooses."""

    def __init__(self, rate: int = RATE) -> None:
        self.rate: int | None = rate
        self.end: End | None = None
        self.doing = "connected"
        self.closed = False
        self.chunks: list[Chunk] = []

    def read(self, now: float, seconds: float) -> list[Chunk]:  # noqa: ARG002
        room = seconds * (self.rate or 0)
        taken: list[Chunk] = []
        while self.chunks and room > 0:
            taken.append(self.chunks.pop(0))
            room -= len(taken[-1].samples)
        return taken

    def close(self) -> None:
        self.closed = True


class StoredWire(Wire):
    """A connection that holds more than was read."""

    received = 0


class Scene:
    """A source, its ring, and a clock that the test advances."""

    def __init__(
        self,
        ring: RingOwner,
        *,
        channel: int | None = None,
        stored: bool = False,
        now: float | None = None,
    ) -> None:
        self.ring = ring
        self.wires: list[Wire] = []
        self.now = now or time.monotonic()
        self.rate = RATE
        job = StreamJob("main", "rtsp://cam/x", ring.name, channel)
        kind = Kind(self._connect, "rtsp://cam/x", stored=stored)
        self.source = NetworkSource([job], FORMAT, lambda _: None, SourceOptions(), kind, self.now)
        self.stream = NetworkStream(job, self.source, 0)
        self.sent = 0
        self.stamp = 0

    def _connect(self) -> Wire:
        wire = StoredWire if self.source.kind.stored else Wire
        self.wires.append(wire(self.rate))
        return self.wires[-1]

    def turn(self) -> None:
        self.stream.turn(self.now)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            self.turn()

    def packet(self) -> Pcm:
        """The next samples of the sender: every value says which one it is."""
        block = values(self.sent, self.sent + PACKET)
        self.sent += PACKET
        return block[:, None]

    def play(self, seconds: float, *, pace: float = 1.0, stamped: bool = True) -> None:
        """Packets that arrive in time."""
        if not self.wires:
            self.turn()
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S * pace
            index = self.stamp if stamped else None
            self.wires[-1].chunks.append(Chunk(self.packet(), self.now, index))
            self.stamp += PACKET
            self.turn()

    def state(self) -> SourceState:
        return self.stream.condition.state

    @property
    def reason(self) -> str:
        return self.stream.condition.reason or ""

    def contents(self) -> Pcm:
        writer = self.stream.feeder.ring
        samples = np.empty(writer.index, np.float32)
        with RingReader.attach(self.ring.name) as reader:
            assert reader.read(0, samples, writer.index)
        return samples

    @property
    def gaps(self) -> list[tuple[int, int]]:
        return self.stream.feeder.ring.gaps()


def values(start: int, end: int) -> Pcm:
    """Noise whose sample n is always the same."""
    return (((np.arange(start, end) * 7919) % 32749 - 16000) / 32768).astype(np.float32)


@pytest.fixture
def ring() -> Iterator[RingOwner]:
    run = secrets.token_hex(8)
    with create_ring("network", sample_rate=RATE, capacity=60 * RATE, run=run) as ring:
        yield ring


@pytest.fixture
def scene(ring: RingOwner) -> Scene:
    return Scene(ring)


def test_it_starts_and_is_live_with_the_first_sound(scene: Scene) -> None:
    scene.turn()
    assert scene.state() is SourceState.STARTING
    scene.play(1.0)
    assert scene.state() is SourceState.LIVE
    assert np.array_equal(scene.contents(), values(0, RATE))


def test_a_server_that_says_nothing_is_lost_within_three_seconds(scene: Scene) -> None:
    scene.wait(2.9)
    assert scene.state() is SourceState.LOST
    assert "no samples yet" in scene.reason
    assert not scene.wires[0].closed
    scene.wait(ATTEMPT_S)
    assert scene.wires[0].closed
    assert len(scene.wires) == 2
    scene.play(1.0)
    assert scene.state() is SourceState.LIVE


def test_a_slow_start_is_live_at_the_first_sound(scene: Scene) -> None:
    scene.wait(5.0)
    assert scene.state() is SourceState.LOST
    scene.play(0.4)
    assert scene.state() is SourceState.LIVE
    assert len(scene.wires) == 1


def test_a_connection_that_ends_is_opened_again_and_the_gap_is_declared(scene: Scene) -> None:
    scene.play(6.0)
    scene.wires[-1].end = End("the server closed the connection")
    scene.turn()
    assert scene.state() is SourceState.LOST
    assert "closed" in scene.reason
    scene.wait(1.0)
    assert scene.state() is SourceState.RECOVERING
    assert "closed" in scene.reason
    assert len(scene.wires) == 2
    scene.stamp = 77  # of the new connection
    scene.play(1.0)
    assert scene.state() is SourceState.LIVE
    (gap,) = scene.gaps
    assert gap == (6 * RATE, 7 * RATE)
    assert np.array_equal(scene.contents()[7 * RATE :], values(6 * RATE, 7 * RATE))
    assert scene.stream.counters["capture_reconnects"] == 1


def test_no_sound_for_three_seconds_is_lost(scene: Scene) -> None:
    scene.play(6.0)
    scene.wait(2.4)
    assert scene.state() is SourceState.LIVE
    scene.wait(0.3)
    assert scene.state() in (SourceState.LOST, SourceState.RECOVERING)
    assert "no samples for 2.5 s" in scene.reason
    assert scene.wires[0].closed


def test_sound_that_was_delayed_is_no_gap(scene: Scene) -> None:
    scene.play(2.0)
    scene.wait(2.0)
    late = [Chunk(scene.packet(), scene.now, None) for _ in range(100)]
    scene.wires[-1].chunks += late
    scene.turn()
    scene.wait(0.1)
    assert scene.state() is SourceState.LIVE
    assert scene.gaps == []
    assert np.array_equal(scene.contents(), values(0, 4 * RATE))


def test_packets_that_are_missing_by_their_stamps_are_a_gap(scene: Scene) -> None:
    scene.play(2.0)
    scene.sent += 3 * PACKET
    scene.stamp += 3 * PACKET
    scene.now += 3 * STEP_S
    scene.play(1.0)
    assert scene.gaps == [(2 * RATE, 2 * RATE + 3 * PACKET)]
    contents = scene.contents()
    held = np.ones(len(contents), bool)
    held[2 * RATE : 2 * RATE + 3 * PACKET] = False
    assert np.array_equal(contents[held], values(0, len(contents))[held])


def test_a_stamp_in_the_far_future_is_refused_and_counted(scene: Scene) -> None:
    scene.play(2.0)
    scene.stamp += 3600 * RATE
    scene.play(1.0)
    assert scene.gaps == []
    assert scene.stream.counters["capture_stamps_refused"] == 1


def test_what_a_server_repeats_after_a_reconnection_is_dropped(scene: Scene) -> None:
    scene.play(6.0)
    scene.wires[-1].end = End("closed")
    scene.turn()
    scene.wait(0.5)
    # A burst of two seconds: the first 1.5 s of it were heard before.
    assert len(scene.wires) == 2
    scene.sent = round(4.5 * RATE)
    scene.wires[-1].chunks += [Chunk(scene.packet(), scene.now, None) for _ in range(100)]
    scene.turn()
    scene.play(1.0, stamped=False)
    assert scene.gaps == []
    assert scene.stream.counters["capture_frames_repeated"] == round(1.5 * RATE)
    assert np.array_equal(scene.contents(), values(0, round(7.5 * RATE)))


def test_a_burst_is_heard_at_once_but_a_recording_in_real_time(scene: Scene) -> None:
    scene.turn()
    scene.wires[-1].chunks += [Chunk(scene.packet(), scene.now, None) for _ in range(2000)]
    scene.wait(0.5)
    heard = scene.stream.feeder.position / RATE
    assert AHEAD_S < heard < AHEAD_S + 1.0
    scene.wait(22.0)
    assert "faster than real time" in scene.reason
    assert scene.state() is SourceState.LIVE


def test_stored_sound_flows_steadily(ring: RingOwner) -> None:
    scene = Scene(ring, stored=True)
    scene.turn()
    for second in range(4):  # segments of 2 s
        scene.wires[-1].chunks += [Chunk(scene.packet(), scene.now, None) for _ in range(100)]
        scene.wait(2.0)
        heard = scene.stream.feeder.position / RATE
        assert heard == pytest.approx(2.0 * (second + 1), abs=0.3)
        assert scene.state() is SourceState.LIVE


def test_a_server_that_stores_sound_and_sends_no_more_is_named_before_the_end_is_heard(
    ring: RingOwner,
) -> None:
    scene = Scene(ring, stored=True)
    scene.turn()
    for seconds in (3, 1, 1, 1, 1):  # three segments at once, then one a second
        wire = scene.wires[-1]
        assert isinstance(wire, StoredWire)
        wire.chunks += [Chunk(scene.packet(), scene.now, None) for _ in range(50 * seconds)]
        wire.received += 50 * seconds
        scene.wait(1.0)
        assert scene.reason == ""
    scene.wait(1.4)
    assert scene.reason == ""
    scene.wait(0.3)
    assert scene.state() is SourceState.LIVE
    assert "sends nothing more" in scene.reason
    scene.wait(3.0)
    assert scene.state() in (SourceState.LOST, SourceState.RECOVERING)
    assert np.array_equal(scene.contents(), values(0, 7 * RATE))


def test_refused_credentials_are_tried_again_later(scene: Scene) -> None:
    scene.turn()
    scene.wires[-1].end = End("the server refuses the password", Retry.LATER)
    scene.turn()
    assert scene.state() is SourceState.LOST
    scene.wait(0.7 * LATER_S)
    assert len(scene.wires) == 1
    assert "password" in scene.reason
    scene.wait(0.6 * LATER_S)
    assert len(scene.wires) == 2


def test_attempts_follow_at_most_two_seconds_after_each_other(scene: Scene) -> None:
    scene.turn()
    for _ in range(10):
        scene.wires[-1].end = End("no server answers")
        before = len(scene.wires)
        scene.wait(2.0)
        assert len(scene.wires) == before + 1
    assert scene.state() is SourceState.RECOVERING


def test_a_mistake_that_no_attempt_mends_ends_the_stream(scene: Scene) -> None:
    scene.turn()
    scene.wires[-1].end = End("Unrecognized option 'foo'", Retry.NEVER)
    scene.turn()
    assert scene.stream.feeder.ended
    assert "foo" in str(scene.stream.error)


def test_a_channel_that_the_source_lacks_is_a_mistake(ring: RingOwner) -> None:
    scene = Scene(ring, channel=1)
    scene.play(0.1)
    assert "no channel 1" in str(scene.stream.error)


def test_another_rate_after_a_reconnection_is_resampled(scene: Scene) -> None:
    scene.play(6.0)
    scene.wires[-1].end = End("closed")
    scene.rate = 2 * RATE
    scene.turn()
    scene.wait(1.0)
    for _ in range(100):
        scene.now += STEP_S
        block = np.zeros((2 * PACKET, 1), np.float32)
        scene.wires[-1].chunks.append(Chunk(block, scene.now, None))
        scene.turn()
    assert scene.state() is SourceState.LIVE
    assert scene.stream.feeder.position == pytest.approx(9 * RATE, abs=0.1 * RATE)


def test_digital_silence_is_reported_and_connected_again_after_a_minute(scene: Scene) -> None:
    scene.play(1.0)
    began = scene.now
    for _ in range(round(70.0 / STEP_S)):
        scene.now += STEP_S
        scene.wires[-1].chunks.append(Chunk(np.zeros((PACKET, 1), np.float32), scene.now, None))
        scene.turn()
        if scene.state() is SourceState.LOST:
            break
        if scene.now - began > 5.0:
            assert scene.state() is SourceState.SILENT_INPUT
    assert scene.now - began == pytest.approx(60.0, abs=1.0)
    assert "digital silence" in scene.reason
    scene.wait(1.0)
    assert len(scene.wires) == 2


def test_a_restarted_process_declares_the_gap_by_the_clock(ring: RingOwner) -> None:
    first = Scene(ring)
    first.play(3.0)
    first.stream.feeder.ring.close()
    second = Scene(ring, now=first.now + 2.0)
    assert second.state() is SourceState.RECOVERING
    second.sent = first.sent
    second.play(1.0)
    assert second.gaps == [(3 * RATE, 5 * RATE)]


def test_a_stop_ends_the_connection(scene: Scene) -> None:
    scene.play(1.0)
    scene.stream.finish()
    assert scene.wires[-1].closed
    assert scene.state() is SourceState.ENDED
    assert scene.stream.error is None


def test_a_muted_source_has_no_connection_and_its_time_is_a_gap(ring: RingOwner) -> None:
    scene = Scene(ring)
    scene.play(4.0)
    heard = scene.stream.feeder.position
    scene.stream.mute(scene.now, muted=True)
    scene.stream.mute(scene.now, muted=True)  # the loop repeats it
    assert scene.wires[0].closed
    scene.wait(5.0)
    assert len(scene.wires) == 1
    assert scene.stream.feeder.muted_since is not None
    muted = scene.stream.feeder.position - heard
    assert muted == pytest.approx(5.0 * RATE, abs=0.3 * RATE)
    scene.stream.mute(scene.now, muted=False)
    scene.turn()
    assert len(scene.wires) == 2
    assert scene.stream.feeder.muted_since is None
    scene.play(3.0)
    assert scene.state() is SourceState.LIVE
    assert scene.stream.feeder.muted_samples == muted  # also counted by the new feeder
    ((start, end),) = scene.gaps
    assert start <= heard
    assert end - start >= muted
    samples = scene.contents()
    assert not samples[start:end].any()
    assert np.array_equal(samples[end:], values(scene.sent - len(samples[end:]), scene.sent))
    assert len(samples) == pytest.approx(12.0 * RATE, abs=0.3 * RATE)


def test_a_source_that_starts_muted_opens_no_connection(ring: RingOwner) -> None:
    scene = Scene(ring)
    scene.stream.mute(scene.now, muted=True)
    scene.wait(3.0)
    assert scene.wires == []
    assert not scene.contents().any()
    scene.stream.mute(scene.now, muted=False)
    scene.play(2.0)
    assert scene.contents()[-RATE:].any()


@pytest.mark.parametrize(
    "error",
    [OSError(24, "Too many open files"), UserError("network sources need ffmpeg")],
    ids=["descriptors", "no ffmpeg"],
)
def test_a_connection_that_cannot_be_opened_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse() -> Wire:
        raise error

    source = scene.source
    working = source.kind
    monkeypatch.setattr(source, "kind", dataclasses.replace(working, connect=refuse))
    scene.turn()
    assert scene.state() is SourceState.LOST
    assert str(getattr(error, "strerror", None) or error) in (source.condition.reason or "")
    monkeypatch.setattr(source, "kind", working)
    scene.wait(3.0)
    scene.play(2.0)
    assert scene.state() is SourceState.LIVE
