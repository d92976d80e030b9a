"""Samples, gaps and header of a ring, compared with a simple model."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.ring.layout import MAX_GAPS
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.writer import RingWriter, add_span
from tests.support.examples import examples
from tests.support.rings import (
    LABEL,
    RUN,
    SHM,
    START_INDICES,
    ring,
    samples,
)

# Samples --------------------------------------------------------------------------------

Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["write", "gap"]), st.integers(0, 70)), min_size=1, max_size=30
)


@examples(300)
@given(
    rate=st.integers(4, 16),
    extra=st.integers(0, 30),
    start=st.sampled_from(START_INDICES),
    steps=steps,
    data=st.data(),
)
def test_a_reader_reads_the_samples_that_were_written(
    rate: int, extra: int, start: int, steps: list[Step], data: st.DataObject
) -> None:
    capacity, margin = rate + extra, rate // 2
    with (
        ring(rate=rate, capacity=capacity, start_index=start) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        reference = np.zeros(0, np.float32)
        for kind, n in steps:
            if kind == "write":
                block = samples(start + len(reference), start + len(reference) + n)
                writer.write(block)
            else:
                block = np.zeros(n, np.float32)
                writer.gap(n)
            reference = np.concatenate([reference, block])
            end = start + len(reference)
            assert writer.index == reader.index == end

            announced = data.draw(st.integers(start, end))
            first = data.draw(st.integers(start, announced))
            last = data.draw(st.integers(first, announced))
            out = np.full(last - first, np.nan, np.float32)
            read = reader.read(first, out, announced)
            assert read == (first >= end - capacity + margin)
            if read:
                np.testing.assert_array_equal(out, reference[first - start : last - start])


def test_an_announced_position_counts_before_its_index_is_visible() -> None:
    with (
        ring(rate=8, capacity=20) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(0, 20))
        out = np.zeros(4, np.float32)
        assert reader.read(4, out, 20)
        assert not reader.read(4, out, 21)
        assert reader.read(5, out, 21)


@pytest.mark.parametrize("start", START_INDICES)
def test_the_whole_ring_but_the_margin_can_be_read(start: int) -> None:
    with (
        ring(rate=8, capacity=20, start_index=start) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(start, start + 50))
        out = np.zeros(16, np.float32)
        assert reader.read(start + 34, out, start + 50)
        np.testing.assert_array_equal(out, samples(start + 34, start + 50))
        assert not reader.read(start + 33, out, start + 50)


def test_blocks_may_be_views_with_any_stride() -> None:
    stereo = samples(0, 40).reshape(20, 2)
    with ring() as owner, RingWriter.attach(owner.name) as writer:
        writer.write(stereo[:, 1])
        with RingReader.attach(owner.name) as reader:
            out = np.zeros((10, 2), np.float32)
            assert reader.read(5, out[:, 0], 20)
            np.testing.assert_array_equal(out[:, 0], stereo[5:15, 1])


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((2, 2), np.float32), np.float32(1)])
def test_only_float32_vectors_are_written(wrong: NDArray[np.float32]) -> None:
    with ring() as owner, RingWriter.attach(owner.name) as writer:
        with pytest.raises(ValueError, match="float32"):
            writer.write(wrong)
        assert writer.index == 0


def test_a_span_past_the_announced_position_is_a_value_error() -> None:
    with (
        ring() as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(0, 10))
        for start, n in [(0, 6), (5, 1), (-1, 1)]:
            with pytest.raises(ValueError, match="not below 5"):
                reader.read(start, np.zeros(n, np.float32), 5)


def test_a_reader_cannot_write_by_accident() -> None:
    with ring() as owner, RingReader.attach(owner.name) as reader:
        assert not reader._samples.flags.writeable


# Gaps -----------------------------------------------------------------------------------


@examples(300)
@given(start=st.sampled_from(START_INDICES), steps=steps)
def test_gaps_are_the_missing_samples_that_the_ring_holds(start: int, steps: list[Step]) -> None:
    capacity = 100
    with (
        ring(capacity=capacity, start_index=start) as owner,
        RingWriter.attach(owner.name) as writer,
    ):
        missing: list[bool] = []
        for kind, n in steps:
            if kind == "write":
                writer.write(samples(writer.index, writer.index + n))
            else:
                writer.gap(n)
            missing += [kind == "gap"] * n
            oldest = start + len(missing) - capacity
            expected = runs([start + i for i, gone in enumerate(missing) if gone])
            if start:  # no sample exists before the first
                joined = bool(expected) and expected[0][0] == start
                expected = [(0, expected[0][1] if joined else start), *expected[joined:]]
            assert writer.gaps() == [(a, b) for a, b in expected if b > oldest]
            assert writer.lost == sum(missing)


def runs(positions: list[int]) -> list[tuple[int, int]]:
    """Consecutive numbers, in order, as spans."""
    spans: list[tuple[int, int]] = []
    for position in positions:
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        else:
            spans.append((position, position + 1))
    return spans


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=2 * MAX_GAPS))
def test_a_full_table_merges_the_spans_with_the_smallest_distance(
    lengths: list[tuple[int, int]],
) -> None:
    spans: list[tuple[int, int]] = []
    reference: list[tuple[int, int]] = []
    at = 0
    for distance, length in lengths:
        at += distance
        spans = add_span(spans, at, at + length)
        reference.append((at, at + length))
        at += length
        if len(reference) > MAX_GAPS:
            distances = [b[0] - a[1] for a, b in itertools.pairwise(reference)]
            i = distances.index(min(distances))
            reference[i : i + 2] = [(reference[i][0], reference[i + 1][1])]
        assert spans == reference
    assert len(spans) <= MAX_GAPS


def test_many_gaps_stay_within_the_table_and_cover_every_missing_sample() -> None:
    dice = random.Random(1)
    with ring(rate=8, capacity=4000) as owner:
        missing: list[int] = []
        with RingWriter.attach(owner.name) as writer:
            for _ in range(500):
                writer.write(samples(writer.index, writer.index + dice.randrange(1, 20)))
                n = dice.randrange(1, 5)
                missing += range(writer.index, writer.index + n)
                writer.gap(n)
            spans, lost = writer.gaps(), writer.lost
            oldest = writer.index - writer.capacity
        assert lost == len(missing)
        assert 1 < len(spans) <= MAX_GAPS
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
        for position in missing:
            assert position < oldest or any(a <= position < b for a, b in spans)
        with RingWriter.attach(owner.name) as writer:
            assert (writer.gaps(), writer.lost) == (spans, lost)


def test_a_gap_of_days_is_one_span_over_a_silent_ring() -> None:
    days = 16000 * 3600 * 100
    with (
        ring(rate=16000, capacity=32000) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(0, 40000))
        writer.gap(days)
        assert writer.gaps() == [(40000, 40000 + days)]
        assert writer.lost == days
        out = np.ones(24000, np.float32)
        assert reader.read(writer.index - 24000, out, writer.index)
        assert not out.any()


# The header -----------------------------------------------------------------------------


def test_the_header_has_rate_run_generation_and_anchor() -> None:
    with ring(rate=16000, capacity=17000, start_index=7) as owner:
        us = ProcessIdentity.current()
        assert owner.name.startswith(f"sep.{us}.{LABEL}-")
        assert (SHM / owner.name).stat().st_mode & 0o777 == 0o600
        with RingReader.attach(owner.name) as reader, RingWriter.attach(owner.name) as writer:
            for user in (reader, writer):
                assert (user.name, user.run) == (owner.name, RUN)
                assert (user.sample_rate, user.capacity) == (16000, 17000)
                assert (user.generation, user.index) == (1, 7)
            assert writer.anchor == (7, 0.0, 0.0)
            # The samples before the first never existed and are not lost.
            assert (writer.gaps(), writer.lost) == ([(0, 7)], 0)


def test_all_memory_is_allocated_at_the_start() -> None:
    with ring(rate=16000, capacity=480_000) as owner:
        status = (SHM / owner.name).stat()
        assert status.st_blocks * 512 >= status.st_size >= 480_000 * 4


def test_the_next_writer_continues_at_the_index_of_the_last() -> None:
    with ring(capacity=100) as owner:
        for generation in range(1, 5):
            with RingWriter.attach(owner.name) as writer:
                assert writer.generation == generation
                index = 10 * (generation - 1)
                assert writer.index == index
                assert writer.lost == 3 * (generation - 1)
                assert len(writer.gaps()) == generation - 1
                if index:
                    assert writer.anchor == (index, index / 3, index / 7)
                writer.write(samples(index, index + 7))
                writer.gap(3)
                writer.set_anchor(index + 10, (index + 10) / 3, (index + 10) / 7)


def test_close_may_be_called_twice_and_attached_memory_outlives_its_name() -> None:
    owner = ring()
    writer, reader = RingWriter.attach(owner.name), RingReader.attach(owner.name)
    owner.unlink()
    owner.unlink()
    writer.write(samples(0, 10))
    out = np.zeros(10, np.float32)
    assert reader.read(0, out, 10)
    np.testing.assert_array_equal(out, samples(0, 10))
    for user in (writer, reader):
        user.close()
        user.close()
