"""A muted feeder: nothing of the sound reaches the ring, and every sample has its place."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from speech_emotion.capture.ring_feeder import RingFeeder, StreamFormat
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.wire.internal import Tick

FORMAT = StreamFormat(16000, WindowGrid(16000, 8000))


@pytest.fixture
def ring() -> Iterator[RingOwner]:
    run = secrets.token_hex(8)
    with create_ring("muted", sample_rate=FORMAT.rate, capacity=30 * FORMAT.rate, run=run) as ring:
        yield ring


def content(name: str) -> NDArray[np.float32]:
    with RingReader.attach(name) as reader:
        samples = np.empty(reader.index, np.float32)
        assert reader.read(0, samples, reader.index)
        return samples


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_muted_samples_are_declared_missing(ring: RingOwner, rate: int, channels: int) -> None:
    ticks: list[Tick] = []
    loud = np.full((rate // 10, channels), 0.5, np.float32)
    with RingWriter.attach(ring.name) as writer:
        feeder = RingFeeder("muted", writer, rate, FORMAT, ticks.append)
        for _ in range(10):
            feeder.feed(loud)
        feeder.mute(5.0, muted=True)
        begin = feeder.position
        for _ in range(20):
            feeder.feed(loud)
        assert (feeder.muted_since, feeder.level_db) == (5.0, None)
        end = feeder.position
        feeder.mute(7.0, muted=False)
        for _ in range(10):
            feeder.feed(loud)
        feeder.finish()
        assert writer.gaps() == [(begin, end)]
        assert feeder.muted_samples == writer.lost == end - begin
        assert ticks[-1].gaps == [[begin, end]]
        samples = content(ring.name)
    # 4 s of sound are 4 s in the ring; resampling may round once at each end.
    assert abs(len(samples) - 4 * FORMAT.rate) <= 2
    assert not samples[begin:end].any()
    assert abs(samples[begin - FORMAT.rate // 2]) > 0.4
    assert abs(samples[-FORMAT.rate // 2]) > 0.4


@pytest.mark.parametrize("rate", [16000, 48000])
def test_what_was_heard_while_muted_leaves_no_trace(rate: int) -> None:
    """After the mute the ring holds the same as if there had been silence instead."""
    chance = np.random.default_rng(0)
    before, after = (chance.standard_normal((rate // 2, 1)).astype(np.float32) for _ in range(2))
    kept = []
    for hidden in (chance.standard_normal((rate, 1)).astype(np.float32), np.zeros((rate, 1))):
        run = secrets.token_hex(8)
        with (
            create_ring("trace", sample_rate=FORMAT.rate, capacity=480000, run=run) as one,
            RingWriter.attach(one.name) as writer,
        ):
            feeder = RingFeeder("trace", writer, rate, FORMAT, lambda _: None)
            feeder.feed(before)
            feeder.mute(1.0, muted=True)
            feeder.feed(hidden.astype(np.float32))
            feeder.mute(2.0, muted=False)
            feeder.feed(after)
            feeder.finish()
            kept.append(content(one.name))
    assert np.array_equal(kept[0], kept[1])
    assert kept[0].any()


def test_samples_to_skip_are_still_compared(ring: RingOwner) -> None:
    """A restarted process that is muted skips what the ring holds, and then hides the rest."""
    sound = np.random.default_rng(1).uniform(-0.5, 0.5, (FORMAT.rate, 1)).astype(np.float32)
    with RingWriter.attach(ring.name) as writer:
        RingFeeder("muted", writer, FORMAT.rate, FORMAT, lambda _: None).feed(sound[:8000])
        held = content(ring.name)
    with RingWriter.attach(ring.name) as writer:
        feeder = RingFeeder(
            "muted", writer, FORMAT.rate, FORMAT, lambda _: None, skip=8000, written=held
        )
        feeder.mute(1.0, muted=True)
        feeder.feed(sound[:10000])  # one block goes beyond what is skipped
        feeder.feed(sound[10000:])
        assert writer.gaps() == [(8000, 16000)]
        assert not content(ring.name)[8000:].any()
