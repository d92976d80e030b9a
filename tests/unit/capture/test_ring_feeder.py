"""How long sound may wait: never beyond a complete window, and not for ever."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

import numpy as np
import pytest

from speech_emotion.capture.ring_feeder import LOOK_S, RingFeeder, StreamFormat
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.ring.writer import RingWriter

FORM = StreamFormat(16000, 16000, 8000)


@pytest.fixture(scope="module")
def ring() -> Iterator[RingOwner]:
    run = secrets.token_hex(8)
    with create_ring("feeder", sample_rate=FORM.rate, capacity=30 * FORM.rate, run=run) as made:
        yield made


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_sound_waits_for_a_tenth_of_a_second_at_most_and_never_for_nothing(
    ring: RingOwner, rate: int
) -> None:
    with RingWriter.attach(ring.name) as writer:
        feeder = RingFeeder("feeder", writer, rate, FORM, lambda _: None)
        silence = np.zeros((rate, 1), np.float32)
        for _ in range(100):
            frames = feeder.patience()
            assert 0 < frames <= LOOK_S * rate
            feeder.feed(silence[:frames])


def test_at_the_streams_own_rate_the_last_frame_that_waits_completes_the_window(
    ring: RingOwner,
) -> None:
    with RingWriter.attach(ring.name) as writer:
        feeder = RingFeeder("feeder", writer, FORM.rate, FORM, lambda _: None)
        silence = np.zeros((FORM.rate, 1), np.float32)
        boundaries = 0
        while boundaries < 5:
            complete, frames = FORM.complete(feeder.position), feeder.patience()
            feeder.feed(silence[: frames - 1])
            assert FORM.complete(feeder.position) == complete
            feeder.feed(silence[:1])
            if frames < LOOK_S * FORM.rate:
                assert FORM.complete(feeder.position) == complete + 1
            boundaries += FORM.complete(feeder.position) - complete


def test_files_of_one_process_spread_their_windows_and_share_their_blocks(ring: RingOwner) -> None:
    from speech_emotion.capture.sources.file import FileStream
    from speech_emotion.capture.stream import StreamJob
    from tests.support.pipelines import DEMO

    job = StreamJob("feeder", f"file:{DEMO}", ring.name)
    file = FileStream(job, FORM, None, lambda _: None, realtime=True)
    try:
        now = time.monotonic()
        begins = []
        for lead in (0.0, 0.019, 0.02, 0.33, 0.499):
            file.begin(now, lead)
            begins.append(round(file._began - now, 6))
        assert begins == [0.0, 0.0, 0.02, 0.32, 0.48]
    finally:
        file.feeder.ring.close()
