"""Make a bundle of Whisper's lower layers and a head: calibrate, convert, compare, write."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.core import Banks, make_core, normalize
from speech_emotion.features.extractor import windows_of
from speech_emotion.train.bundle.left_out import figures_left_out
from speech_emotion.train.bundle.whisper_card import (
    FEW_CORPORA,
    SAMPLE,
    Exported,
    Figures,
    card,
)
from speech_emotion.train.bundle.writer import run_tflite_all, write_bundle
from speech_emotion.train.data.clips import Samples, load
from speech_emotion.train.evaluation import held_out as study
from speech_emotion.train.evaluation import operating_points
from speech_emotion.train.evaluation.crossval import parameter_bundle
from speech_emotion.train.model.export import to_tflite
from speech_emotion.train.model.whisper import graph, heads
from speech_emotion.train.model.whisper.encoder import statistics
from speech_emotion.train.model.whisper.graph import Head
from speech_emotion.train.model.whisper.heads import (
    LABELS,
    NEUTRAL,
    HeadTrainingSet,
    WindowSums,
)
from speech_emotion.train.model.whisper.weights import Weights

log = logging.getLogger("train")

AGREEMENT, AGREEING = 1e-3, 10
"""The float32 export may differ from Keras by so much in a probability, on so many windows."""


def measure(
    window_sums: WindowSums,
    spec: FeatureSpec,
    *,
    deciding: Sequence[str] = (),
    others: HeadTrainingSet | None = None,
) -> Figures:
    """Calibrate on the outputs for corpora left out; figures for these and for speakers left out.

    Args:
        deciding: corpora that determine the operating point; empty: those with every label.
        others: clips of other corpora, for evaluation only: no parameter depends on them.
    """
    training_set = window_sums.training_set
    held_out = study.left_out(training_set, study.corpus_heads(window_sums))
    folded = study.left_out(training_set, study.speaker_heads(window_sums))
    few = len(set(training_set.corpus.tolist())) <= FEW_CORPORA
    # Of two corpora each is left to a model of the other, and the distance tells the two apart.
    blank = parameter_bundle(
        spec, LABELS, speech_output=bool(len(training_set.noise)), distance_output=not few
    )
    measured = dataclasses.replace(
        figures_left_out(training_set, blank, held_out, folded, deciding, few=few),
        outputs={
            "left_out": (training_set, held_out),
            "new_speakers": (training_set, folded),
        },
    )
    if others is None:
        return measured
    bundle = measured.parameters
    outputs = study.other_corpora(window_sums, others)
    found = study.utterances(others, outputs, bundle)
    points = {
        name: operating_points.Point(
            bundle.at(name).decision.bias, bundle.at(name).decision.min_utterance_confidence
        )
        for name in operating_points.MAX_FALSE
    }
    return dataclasses.replace(
        measured,
        outputs={**measured.outputs, "others": (others, outputs)},
        others=study.table(others, outputs, bundle),
        others_rates={
            name: operating_points.rates(found, point, NEUTRAL) for name, point in points.items()
        },
    )


def export(
    weights: Weights, head: Head, spec: FeatureSpec, windows: Samples, truth: NDArray[np.int64]
) -> Exported:
    """Convert to 8-bit TFLite, and compare with the float32 graph.

    Args:
        windows: normalized features (n, frames, dims).
        truth: label index per window, (n,).
    """
    model = graph.emotion_graph(weights, head, spec.n_frames, spec.dims)
    exact = run_tflite_all(to_tflite(model), windows, "frames,dims")
    few = windows[:AGREEING]
    keras = np.concatenate([np.asarray(model(w[np.newaxis], training=False)) for w in few])
    off = float(np.abs(exact[: len(few)] - keras).max())
    if off > AGREEMENT:
        raise RuntimeError(f"the float32 export differs from Keras by {off:.3g}")
    flat = to_tflite(model, quantized=True)
    began = time.thread_time()
    found = run_tflite_all(flat, windows, "frames,dims")
    spent = 1000 * (time.thread_time() - began) / len(windows)
    n = len(LABELS)
    apart = np.abs(found - exact)
    held_out, meant = found[:, :n].argmax(axis=1), exact[:, :n].argmax(axis=1)
    return Exported(
        model=flat,
        difference=float(apart[:, : n + 1].max()),
        relative_difference=float(apart[:, n + 2 :].max(initial=0.0)),
        changed=float((held_out != meant).mean()),
        lost=float((meant == truth).mean() - (held_out == truth).mean()),
        milliseconds=spent,
    )


def real_windows(
    training_set: HeadTrainingSet, spec: FeatureSpec, count: int, seed: int
) -> tuple[Samples, NDArray[np.int64]]:
    """First windows of `count` random clips, (n, frames, dims), normalized, and their labels."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(
        rng.choice(len(training_set.clips), min(count, len(training_set.clips)), False)
    )
    core = make_core(spec, Banks.from_librosa(spec))
    mean, std = statistics(spec.dims)
    grid = WindowGrid(spec.window, spec.hop)
    found = []
    for i in chosen:
        samples = load(training_set.clips[i], spec.sample_rate)
        _, window = next(windows_of(samples, grid))
        found.append(normalize(core.extract(window), mean, std, spec.eps))
    return np.array(found, np.float32), training_set.truth[chosen]


def build(
    window_sums: WindowSums,
    figures: Figures,
    weights: Weights,
    spec: FeatureSpec,
    out: Path,
    *,
    name: str,
    licence: tuple[str, str],
    baseline: Mapping[str, float],
    golden: Samples,
    command: str,
    seed: int,
) -> tuple[Bundle, Exported]:
    """Fit the head on all clips and write the bundle.

    Args:
        licence: SPDX identifier and text.
        baseline: numbers of the bundle's [baseline]; its defaults for the others.
        golden: one window of sound for the self-test, (spec.window,).
        command: command that makes the bundle.
    """
    training_set, recipe = window_sums.training_set, window_sums.recipe
    everything = sorted(set(training_set.corpus.tolist())), sorted(set(window_sums.fold.tolist()))
    head = heads.fit_head(window_sums, *everything)
    windows, truth = real_windows(training_set, spec, SAMPLE, seed)
    exported = export(weights, head, spec, windows, truth)
    log.info(
        "%d bytes, %.1f ms, %.2f %% of the labels changed by 8 bits",
        *(len(exported.model), exported.milliseconds, 100 * exported.changed),
    )
    bundle = write_bundle(
        out,
        name=name,
        model=exported.model,
        labels=LABELS,
        spec=spec,
        layout="frames,dims",
        output="probabilities",
        speech_output=True,
        distance_output=True,
        stats=statistics(spec.dims),
        golden_audio=golden,
        card=card(name, training_set, recipe, figures, exported, licence[0], command),
        licence=licence[1],
        licence_id=licence[0],
        calibration=figures.parameters.calibration,
        decision=figures.parameters.decision,
        sensitivity=figures.parameters.sensitivity,
        baseline=baseline_of(head, baseline),
        provenance={
            "command": command,
            "seed": seed,
            "corpora": sorted(set(training_set.corpus.tolist())),
            "clips": len(training_set.clips),
            "encoder": "Whisper base (multilingual), layers 1 to 3, MIT",
            "recipe": {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in dataclasses.asdict(recipe).items()
                if v is not None
            },
            "quantized": True,
        },
    )
    return bundle, exported


def baseline_of(head: Head, numbers: Mapping[str, float]) -> Baseline | None:
    """The bundle's parameters for the relative scores of a head; None without them.

    Args:
        numbers: values of `Baseline` other than prior and bias.

    Raises:
        UserError: one of them is unknown.
    """
    if head.relative is None:
        return None
    known = [f.name for f in dataclasses.fields(Baseline) if f.name not in ("prior", "bias")]
    if unknown := sorted(set(numbers) - set(known)):
        raise UserError(f"recipe: baseline.{unknown[0]} is not a key; allowed: {', '.join(known)}")
    return Baseline(
        prior=tuple(np.round(head.relative.prior.astype(float), 4).tolist()),
        bias=tuple(np.round(head.relative.bias.astype(float), 4).tolist()),
        **numbers,
    )
