"""How long samples wait before they are fed: never past a complete window, and never for ever."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import numpy as np
import pytest

from speech_emotion.capture.ring_feeder import MAX_WAIT_S, RingFeeder, StreamFormat
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.ring.writer import RingWriter

GRID = WindowGrid(16000, 8000)
FORMAT = StreamFormat(16000, GRID)


@pytest.fixture(scope="module")
def ring() -> Iterator[RingOwner]:
    run = secrets.token_hex(8)
    with create_ring("feeder", sample_rate=FORMAT.rate, capacity=30 * FORMAT.rate, run=run) as ring:
        yield ring


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_samples_wait_at_most_a_tenth_of_a_second(ring: RingOwner, rate: int) -> None:
    with RingWriter.attach(ring.name) as writer:
        feeder = RingFeeder("feeder", writer, rate, FORMAT, lambda _: None)
        silence = np.zeros((rate, 1), np.float32)
        for _ in range(100):
            frames = feeder.frames_until_due()
            assert 0 < frames <= MAX_WAIT_S * rate
            feeder.feed(silence[:frames])


def test_at_the_streams_own_rate_the_last_waiting_frame_completes_the_window(
    ring: RingOwner,
) -> None:
    with RingWriter.attach(ring.name) as writer:
        feeder = RingFeeder("feeder", writer, FORMAT.rate, FORMAT, lambda _: None)
        silence = np.zeros((FORMAT.rate, 1), np.float32)
        boundaries = 0
        while boundaries < 5:
            complete, frames = GRID.complete(feeder.position), feeder.frames_until_due()
            feeder.feed(silence[: frames - 1])
            assert GRID.complete(feeder.position) == complete
            feeder.feed(silence[:1])
            if frames < MAX_WAIT_S * FORMAT.rate:
                assert GRID.complete(feeder.position) == complete + 1
            boundaries += GRID.complete(feeder.position) - complete


def test_files_of_one_process_spread_their_windows_and_share_their_blocks(ring: RingOwner) -> None:
    from speech_emotion.capture.sources.file import FileStream
    from speech_emotion.capture.stream import StreamJob
    from tests.support.pipelines import DEMO

    job = StreamJob("feeder", f"file:{DEMO}", ring.name)
    file = FileStream(job, FORMAT, None, lambda _: None, realtime=True)
    try:
        now = time.monotonic()
        starts = []
        for lead in (0.0, 0.019, 0.02, 0.33, 0.499):
            file.begin(now, lead)
            starts.append(round(file._began - now, 6))
        assert starts == [0.0, 0.0, 0.02, 0.32, 0.48]
    finally:
        file.feeder.ring.close()
