"""Raw samples on standard input give the same results as a file of them."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.pipelines import (
    PATIENCE_S,
    ROOT,
    Subscriber,
    fresh_endpoint,
    leftovers,
    nothing_left_but,
    offline,
)

Clip = Callable[..., Path]


def piped(source: str, content: bytes, *flags: str, seed: int = 0) -> Subscriber:
    """A pipeline fed through a pipe in pieces of random sizes."""
    before = leftovers()
    endpoint = fresh_endpoint()
    subscriber = Subscriber(endpoint)
    process = subprocess.Popen(
        [sys.executable, "supervisor.py", "--results", endpoint, "--source", source, *flags],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    chance, sent = random.Random(seed), 0
    while sent < len(content):
        size = chance.choice((1, 3, 999, 40_000))
        process.stdin.write(content[sent : sent + size])
        process.stdin.flush()
        sent += size
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0
    nothing_left_but(before)
    return subscriber


@pytest.mark.parametrize("speed", ["realtime", "max"])
def test_a_pipe_equals_its_file(clip: Clip, speed: str) -> None:
    path = clip(45.0)  # longer than the ring: the writer has to wait
    samples, rate = soundfile.read(path, dtype="int16")
    subscriber = piped(f"stdin:{rate}", samples.tobytes(), f"--speed={speed}")
    assert subscriber.finish().stream() == offline(path)


def test_rate_and_channels_come_from_the_source_text(clip: Clip, tmp_path: Path) -> None:
    samples, _ = soundfile.read(clip(9.0), dtype="int16")
    stereo = np.stack([samples, samples[::-1]], axis=1)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo, 24000)
    # An incomplete sample at the end is discarded.
    subscriber = piped("stdin:24000:2", stereo.tobytes() + b"\x01", "--speed=max")
    assert subscriber.finish().stream() == offline(path)
