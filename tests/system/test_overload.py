"""Overload: the ring prevents losses; losses after an overrun are declared and counted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from speech_emotion.common.wire import public
from tests.support.pipelines import Running, offline

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def test_loaded_cores_lose_no_sample(supervise: Supervise, clip: Clip) -> None:
    path = clip(10.0)
    load = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(2 * (psutil.cpu_count() or 2))
    ]
    try:
        code, stderr, received = supervise(f"--source=file:{path}").ended()
    finally:
        for one in load:
            one.kill()
            one.wait()
    assert code == 0, stderr
    assert received.stream() == offline(path)
    last = received.fresh(public.Health)[-1]
    assert last.streams[0].lost == 0
    assert "samples_overrun" not in last.counters


def test_features_stopped_for_longer_than_the_ring_is_declared_and_counted(
    supervise: Supervise, clip: Clip
) -> None:
    path = clip(50.0)
    ring_s = 6.0
    running = supervise(f"--source=file:{path}", env={"SEP_RING__SECONDS": str(ring_s)})
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    supervisor = psutil.Process(running.process.pid)
    supervisor.suspend()  # so that nothing starts it again before the ring is overwritten
    running.stages()["features"].kill()
    time.sleep(ring_s + 3.0)
    supervisor.resume()
    running.subscriber.wait_for(
        lambda received: any(result.skipped for result in received.fresh(public.Result))
    )
    running.subscriber.wait_for(
        lambda received: any(
            "windows_overrun" in one.counters for one in received.fresh(public.Health)
        )
    )
    code, stderr, received = running.stopped()
    assert code == 0, stderr

    results = received.fresh(public.Result)
    jumps = [result for result in results if result.skipped]
    assert jumps
    assert all(jump.state == "gap" and jump.emotion is None and jump.lost for jump in jumps)
    hop = results[0].end - results[0].start - (results[0].end - results[1].start)
    following = 0
    for result in results:
        assert result.seq == following
        assert result.start == result.seq * hop
        following = result.next_seq
    counters = received.fresh(public.Health)[-1].counters
    assert counters["windows_overrun"] == sum(jump.skipped for jump in jumps)
    assert counters["samples_overrun"] == sum(jump.lost for jump in jumps)
    # Complete windows have the same results, except for the state of the smoothing.
    undisturbed = {row["seq"]: row for row in offline(path) if row["kind"] == "result"}
    for result in results:
        if not result.skipped:
            assert result.rms_db == undisturbed[result.seq]["rms_db"]
