"""CPU time of the feature core, compared with librosa's calls and with a lower bound."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import soundfile

from bench.harness import DATA, spread
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import N_CHROMA, FeatureSpec
from speech_emotion.features.core import (
    MFCC_MELS,
    Banks,
    ExactCore,
    FastCore,
    Samples,
    make_core,
)
from speech_emotion.features.reference import reference_features

ORIGINAL = FeatureSpec()


def bare(spec: FeatureSpec) -> Callable[[Samples], Samples]:
    """The lower bound: one batched float32 rfft of a window's frames and one matrix product."""
    bands = (MFCC_MELS if spec.n_mfcc else 0) + (N_CHROMA if spec.chroma else 0) + spec.n_mels
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((spec.natural_frames, spec.n_fft)).astype(np.float32)
    power = np.ones((len(frames), 1 + spec.n_fft // 2), np.float32)
    bank = np.ones((power.shape[1], bands), np.float32)

    def compute(_: Samples) -> Samples:
        scipy.fft.rfft(frames, axis=1)
        product: Samples = power @ bank
        return product

    return compute


def specs(bundle: Bundle) -> dict[str, FeatureSpec]:
    """The measured specs: the original, the original with a fixed tuning, the shipped one."""
    shipped = bundle.spec
    return {
        "original": ORIGINAL,
        "original, tuning 0": dataclasses.replace(ORIGINAL, chroma_tuning=0.0),
        "shipped": shipped,
        "shipped, shared frames": dataclasses.replace(shipped, hop_length=shared_hop(shipped)),
    }


def shared_hop(spec: FeatureSpec) -> int:
    """The divisor of the window hop that is closest to the spec's hop length."""
    divisors = [h for h in range(16, spec.hop + 1) if spec.hop % h == 0]
    return min(divisors, key=lambda h: abs(h - spec.hop_length))


def measure(bundle: Bundle, rounds: int) -> dict[str, Any]:
    """Thread CPU time per window of real speech, programs in turn, one BLAS thread."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(DATA.glob("*.flac"))]
    speech = np.concatenate(clips)
    rows: dict[str, Any] = {}
    for name, spec in specs(bundle).items():
        core = make_core(spec, Banks.from_librosa(spec))
        out = np.empty((spec.n_frames, spec.dims), np.float32)
        whole = np.resize(speech, spec.window + rounds * spec.hop)
        programs: dict[str, Callable[[Samples], Samples]] = {
            "librosa": lambda w, s=spec: reference_features(w, s),  # type: ignore[misc]
            "original": lambda w: reference_features(w[: ORIGINAL.window], ORIGINAL),
            "core": lambda w, c=core, o=out: c.extract(w, o),  # type: ignore[misc]
            "bare": bare(spec),
        }
        times: dict[str, list[float]] = {program: [] for program in programs}
        worst, of_tolerance = 0.0, 0.0
        for k in range(-5, rounds):  # negative rounds warm up
            window = np.ascontiguousarray(whole[max(0, k) * spec.hop :][: spec.window])
            outputs: dict[str, Samples] = {}
            # Rotate the order: each program leaves the CPU caches in a different state.
            names = list(programs)
            for program in names[k % len(names) :] + names[: k % len(names)]:
                run = programs[program]
                began = time.thread_time_ns()
                outputs[program] = run(window)
                if k >= 0:
                    times[program].append((time.thread_time_ns() - began) / 1e3)
            expected = outputs["librosa"][: spec.n_frames]
            difference = np.abs(outputs["core"][: len(expected)] - expected)
            worst = max(worst, float(difference.max()))
            tolerance = 1e-4 + 1e-4 * np.abs(expected)
            of_tolerance = max(of_tolerance, float((difference / tolerance).max()))
        median = {program: float(np.median(values)) for program, values in times.items()}
        rows[name] = {
            "core": type(core).__name__,
            "frames_kept": bool(isinstance(core, FastCore) and core.keeps_frames),
            "us": {program: spread(values) for program, values in times.items()},
            "to_own_librosa": median["librosa"] / median["core"],
            "to_original": median["original"] / median["core"],
            "to_bare": median["core"] / median["bare"],
            "largest_difference": worst,
            "of_tolerance_1e-4": of_tolerance,
            "bit_identical": isinstance(core, ExactCore) and worst == 0.0,
        }
    return rows
