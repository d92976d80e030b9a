"""Small rings with known samples."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.ring.segment import RingOwner, create_ring

RUN = "0123456789abcdef"
SHM = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[2]
LABEL = f"test{os.getpid()}"
"""Part of every stream name here, so that the tests recognize their own leftovers."""
START_INDICES = [0, 1, 2**31 - 20, 2**32 - 20, 2**53]

_numbers = itertools.count()


def ring(*, rate: int = 8, capacity: int = 20, start_index: int = 0) -> RingOwner:
    return create_ring(
        f"{LABEL}-{next(_numbers)}",
        sample_rate=rate,
        capacity=capacity,
        run=RUN,
        start_index=start_index,
    )


def value(index: int | NDArray[np.int64]) -> NDArray[np.float32]:
    """Value of sample `index`: exact in float32, different in every lap."""
    return np.asarray(np.asarray(index) % 8_388_593 + 1, np.float32)


def samples(start: int, end: int) -> NDArray[np.float32]:
    return value(np.arange(start, end))


Script = Callable[..., "subprocess.Popen[str]"]


def line(child: subprocess.Popen[str]) -> str:
    """The next line that a script prints; the test fails with its traceback if it died."""
    assert child.stdout is not None
    assert child.stderr is not None
    text = child.stdout.readline().strip()
    assert text, child.stderr.read()
    return text
