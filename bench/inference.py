"""Time of one window through the bundle's model on one thread."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.harness import spread
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.infer.decision import calibrate
from speech_emotion.infer.model import Model


def measure(bundle: Bundle, rounds: int) -> dict[str, Any]:
    """Milliseconds to set the input, invoke the model and calibrate the probabilities."""
    model = Model(bundle)
    rng = np.random.default_rng(0)
    shape = (64, bundle.spec.n_frames, bundle.spec.dims)
    windows = rng.standard_normal(shape).astype(np.float32)
    times = []
    for k in range(-20, rounds):
        began = time.perf_counter_ns()
        calibrate(model.predict(windows[k % 64]), bundle)
        if k >= 0:
            times.append((time.perf_counter_ns() - began) / 1e6)
    return {"ms": spread(times), "runtime": model.runtime}
