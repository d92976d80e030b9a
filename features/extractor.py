"""Windows of samples to normalized features: pure; the same code live, offline and in training."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.manifest import GOLDEN_TOLERANCE, Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.common.levels import clipped_fraction, rms_dbfs
from speech_emotion.features.core import Banks, Core, make_core, normalize
from speech_emotion.features.gate import Gate, make_gate
from speech_emotion.features.prosody import ProsodyAnalyzer

Samples = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The result of the features stage for one window.

    Attributes:
        kind: `speech`, `silence` or `gap`.
        rms_db: RMS dBFS of the window.
        clipped: share of clipped samples.
        features: normalized, float32, (spec.n_frames, spec.dims); speech only.
        track: prosody frames; speech only, and only where they are measured.
        gate: state of the voice gate after this window.
        milliseconds: duration of the analysis.
    """

    kind: str
    rms_db: float
    clipped: float
    features: Samples | None
    gate: list[float]
    milliseconds: float
    track: bytes | None = None


class FeatureExtractor:
    """Gate, feature core and normalization of one stream. Takes its windows in order.

    Args:
        prosody: measure prosody frames.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        core: Core,
        mean: Samples,
        std: Samples,
        *,
        prosody: bool = False,
    ) -> None:
        self._spec = spec
        self._core = core.stream()
        self._mean = mean
        self._std = std
        self._gate: Gate = make_gate(spec)
        self._prosody = ProsodyAnalyzer(spec) if prosody else None

    def resume(self, gate: list[float]) -> None:
        """Resume from a checkpoint of the gate; an empty one is the start of a stream."""
        if gate:
            self._gate.restore(gate)
        else:
            self._gate.reset()

    def analyze(self, samples: Samples, *, missing: int = 0) -> Analysis:
        """Analyse the next window, shape (spec.window,), of which `missing` samples are zeros."""
        began = time.perf_counter()
        kind, features, track = "silence", None, None
        if self._spec.grid.is_gap(missing):
            kind = "gap"
            self._gate.reset()
        elif self._gate.step(samples):
            kind = "speech"
            features = self._core.extract(samples)
            normalize(features, self._mean, self._std, self._spec.eps, out=features)
            if self._prosody is not None:
                track = self._prosody.frames(samples).tobytes()
        return Analysis(
            kind=kind,
            rms_db=rms_dbfs(samples),
            clipped=clipped_fraction(samples),
            features=features,
            gate=self._gate.state(),
            milliseconds=(time.perf_counter() - began) * 1000.0,
            track=track,
        )

    def skip(self) -> list[float]:
        """Reset the gate, because windows were skipped. Returns the gate's state."""
        self._gate.reset()
        return self._gate.state()


def windows_of(samples: Samples, grid: WindowGrid) -> Iterator[tuple[int, Samples]]:
    """Every window of a whole recording as (k, samples of shape (grid.window,))."""
    for k in range(grid.total(len(samples))):
        window = samples[grid.start(k) : grid.end(k)]
        if len(window) < grid.window:
            window = np.pad(window, (0, grid.window - len(window)))
        yield k, window


class ExtractorFactory(Protocol):
    """Creates the extractor of one more stream."""

    def __call__(self) -> FeatureExtractor: ...


def load_extractors(bundle: Bundle, *, prosody: bool = False) -> ExtractorFactory:
    """Load the part of a bundle that features needs, and check it against the golden vector.

    Args:
        prosody: the extractors measure prosody frames, too.

    Raises:
        UserError: the arrays do not match the spec, or this machine computes other features.
    """
    spec = bundle.spec
    mean, std = load_statistics(bundle)
    core = load_core(bundle)
    with np.errstate(all="ignore"):  # values that overflow fail the comparison
        _self_test(bundle, core)
    return lambda: FeatureExtractor(spec, core, mean, std, prosody=prosody)


def load_core(bundle: Bundle) -> Core:
    """The feature core of a bundle, with the bundle's filter banks.

    Raises:
        UserError: the banks do not match the spec.
    """
    spec = bundle.spec
    if spec.waveform:
        return make_core(spec, Banks.empty())
    return make_core(spec, Banks.from_arrays(spec, bundle.arrays("banks.npz")))


def load_statistics(bundle: Bundle) -> tuple[Samples, Samples]:
    """Mean and standard deviation, (dims,) or (n_frames, dims), of a bundle's `stats.npz`.

    Raises:
        UserError: an array is missing, of another shape, or not finite.
    """
    arrays = bundle.arrays("stats.npz")
    path = bundle.display("stats.npz")
    spec = bundle.spec
    allowed = ((spec.dims,), (spec.n_frames, spec.dims))
    statistics = []
    for key in ("mean", "std"):
        if key not in arrays or arrays[key].shape not in allowed:
            raise UserError(f"{path}: {key} must have shape {allowed[0]} or {allowed[1]}")
        with np.errstate(over="ignore"):  # becomes inf, which the next line refuses
            array = arrays[key].astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {key} has values that are not finite")
        statistics.append(array)
    if (statistics[1] < 0).any():
        raise UserError(f"{path}: std has negative values")
    return statistics[0], statistics[1]


def _self_test(bundle: Bundle, core: Core) -> None:
    path = bundle.display("golden.npz")
    golden = bundle.arrays("golden.npz")
    spec = bundle.spec
    shapes = {"audio": (spec.window,), "features": (spec.n_frames, spec.dims)}
    for key, shape in shapes.items():
        if key not in golden or golden[key].shape != shape:
            raise UserError(f"{path}: {key} must have shape {shape}, as the feature spec says")
    features = core.extract(golden["audio"].astype(np.float32))
    expected = golden["features"].astype(np.float32)
    if not np.allclose(features, expected, rtol=GOLDEN_TOLERANCE, atol=GOLDEN_TOLERANCE):
        worst = float(np.max(np.abs(features - expected)))
        raise UserError(
            f"{path}: this machine computes other features (off by {worst:.3g}, allowed "
            f"{GOLDEN_TOLERANCE:g}); the bundle was made with another spec or is damaged"
        )
