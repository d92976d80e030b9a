"""Gate, features and normalization of every window of a recording, with the time per step."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.spec import FeatureSpec, load_spec
from speech_emotion.common.errors import UserError
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.features.core import Banks, Core, make_core, normalize
from speech_emotion.features.extractor import Samples, load_core, load_statistics, windows_of
from speech_emotion.features.gate import make_gate


@dataclasses.dataclass(frozen=True)
class Analysed:
    """One row per window; the features of silent windows are computed too.

    Attributes:
        features: float32, (windows, spec.n_frames, spec.dims), before normalization.
        normalized: the same after normalization; None without statistics.
        start: first sample of each window.
        rms_db: RMS dBFS of each window.
        speech: decision of the voice gate for each window.
        seconds: step → seconds per window.
    """

    features: Samples
    normalized: Samples | None
    start: NDArray[np.int64]
    rms_db: NDArray[np.float64]
    speech: NDArray[np.bool_]
    seconds: dict[str, NDArray[np.float64]]

    def save(self, path: Path) -> None:
        """Write an npz with every array except the times.

        Raises:
            UserError: the file cannot be written.
        """
        arrays = {
            "features": self.features,
            "start": self.start,
            "rms_db": self.rms_db,
            "speech": self.speech,
        }
        if self.normalized is not None:
            arrays["normalized"] = self.normalized
        try:
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def analyse(
    samples: Samples, spec: FeatureSpec, core: Core, statistics: tuple[Samples, Samples] | None
) -> Analysed:
    """Analyse every window of a recording at the spec's rate, shape (samples,)."""
    gate = make_gate(spec)
    features, normalized, starts, levels, speech = [], [], [], [], []
    seconds: dict[str, list[float]] = {"gate": [], "features": [], "normalize": []}
    for k, window in windows_of(samples, spec.grid):
        began = time.perf_counter()
        speech.append(gate.step(window))
        gated = time.perf_counter()
        row = core.extract(window)
        extracted = time.perf_counter()
        features.append(row.copy())
        if statistics is not None:
            normal_began = time.perf_counter()
            normalized.append(normalize(row, *statistics, spec.eps))
            seconds["normalize"].append(time.perf_counter() - normal_began)
        seconds["gate"].append(gated - began)
        seconds["features"].append(extracted - gated)
        starts.append(spec.grid.start(k))
        levels.append(rms_dbfs(window))
    return Analysed(
        features=np.stack(features),
        normalized=np.stack(normalized) if normalized else None,
        start=np.array(starts, np.int64),
        rms_db=np.array(levels, np.float64),
        speech=np.array(speech, np.bool_),
        seconds={step: np.array(times) for step, times in seconds.items() if times},
    )


def report(
    file: str, *, bundle: Path | None, spec: Path | None, out: Path | None, timings: bool
) -> int:
    """`python -m features FILE`: print the counts, write the arrays. Returns the exit code.

    Raises:
        UserError: the file, the bundle or the spec is missing or invalid; after all output: the
            file is damaged from some sample on.
    """
    statistics = None
    if spec is not None:
        features_spec = load_spec(spec)
        core = make_core(features_spec, Banks.from_librosa(features_spec))
    else:
        loaded = load_bundle(bundle or DEFAULT_BUNDLE)
        features_spec, statistics = loaded.spec, load_statistics(loaded)
        core = load_core(loaded)
    recording = read_recording(file, features_spec.sample_rate)
    analysed = analyse(recording.samples, features_spec, core, statistics)
    if out is not None:
        analysed.save(out)
    windows, frames, dims = analysed.features.shape
    print(f"{windows} windows of {frames} frames x {dims}, {int(analysed.speech.sum())} speech")
    if timings:
        print(f"{'step':<12}{'median ms':>10}{'p99 ms':>10}")
        for step, seconds in analysed.seconds.items():
            median, p99 = (float(np.percentile(seconds, q)) * 1000.0 for q in (50, 99))
            print(f"{step:<12}{median:>10.3f}{p99:>10.3f}")
    if recording.damage is not None:
        sys.stdout.flush()
        raise recording.damage
    return 0
