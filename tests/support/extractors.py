"""The extractors of the shipped bundle, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.features.extractor import Analysis, load_extractors
from tests.support.pipelines import BUNDLE

Samples = NDArray[np.float32]

BOX = load_bundle(BUNDLE)
SPEC = BOX.spec
GRID = SPEC.grid
EXTRACTORS = load_extractors(BOX)


def speech(demo: tuple[Samples, int], seconds: float) -> Samples:
    """Real speech; its rate does not matter here."""
    samples, _ = demo
    return samples[: round(seconds * SPEC.sample_rate)]


def without_time(analysis: Analysis) -> dict[str, Any]:
    table = dataclasses.asdict(dataclasses.replace(analysis, milliseconds=0.0))
    return {**table, "features": None if table["features"] is None else table["features"].tobytes()}
