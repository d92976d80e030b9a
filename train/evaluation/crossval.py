"""Decisions, calibration and figures of cross-validated outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.parameters import Calibration, Decision
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.infer.decision import NOT_SPEECH
from speech_emotion.train.data.stream_features import ClipFeatures
from speech_emotion.train.evaluation.calibration import calibrate_bundle
from speech_emotion.train.evaluation.metrics import figures
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions, decide_clip
from speech_emotion.train.model.fold_outputs import Outputs
from speech_emotion.train.model.training_job import TrainingJob


def parameter_bundle(
    spec: FeatureSpec,
    labels: tuple[str, ...],
    *,
    speech_output: bool = False,
    distance_output: bool = False,
) -> Bundle:
    """A bundle without files for `decide_clip`: temperature 1, no abstention."""
    return Bundle(
        path=Path(),
        name="crossval",
        digest="0" * 64,
        labels=labels,
        spec=spec,
        layout="frames,dims,1",
        output="probabilities",
        calibration=Calibration(),
        decision=Decision(),
        speech_output=speech_output,
        distance_output=distance_output,
    )


def uncalibrated_bundle(job: TrainingJob) -> Bundle:
    """The `parameter_bundle` of a training job."""
    return parameter_bundle(
        job.plan.spec, job.labels, speech_output=job.plan.recipe.speech_head > 0
    )


def decide_clips(
    bundle: Bundle, features: Mapping[int, ClipFeatures], outputs: Outputs
) -> dict[int, ClipDecisions]:
    """Clip index → decisions, for every clip that has outputs."""
    return {i: decide_clip(features[i], o, bundle) for i, o in outputs.items()}


def cross_calibrated(
    bundle: Bundle,
    folds: Sequence[Outputs],
    features: Mapping[int, ClipFeatures],
    truth: NDArray[np.int64],
    corpus: NDArray[np.str_],
) -> dict[int, ClipDecisions]:
    """Decisions for every fold's clips, calibrated on the other folds.

    Args:
        folds: per fold, clip index → raw outputs.
        features: clip index → features.
        truth: label index per clip, (clips,).
        corpus: corpus name per clip, (clips,).
    """
    decisions: dict[int, ClipDecisions] = {}
    for k, fold in enumerate(folds):
        others = {i: o for j, other in enumerate(folds) if j != k for i, o in other.items()}
        tuned = calibrate_on(bundle, others, features, truth, corpus)
        decisions |= decide_clips(tuned, features, fold)
    return decisions


def calibrate_on(
    bundle: Bundle,
    outputs: Outputs,
    features: Mapping[int, ClipFeatures],
    truth: NDArray[np.int64],
    corpus: NDArray[np.str_],
) -> Bundle:
    """The bundle with temperatures and thresholds fitted on the clips that have outputs."""
    clips = list(outputs)
    return calibrate_bundle(
        bundle,
        [features[i] for i in clips],
        [outputs[i] for i in clips],
        truth[clips],
        corpus[clips],
    )


def summarize(
    decisions: Mapping[int, ClipDecisions],
    truth: NDArray[np.int64],
    corpus: NDArray[np.str_],
    n: int,
) -> dict[str, Any]:
    """`{"overall": E, "corpora": {NAME: E}}`, `E = {"utterance": U, "window": U}`.

    Args:
        decisions: clip index → decisions.
        truth: label index per clip, (clips,).
        corpus: corpus name per clip, (clips,).
        n: number of labels.
    """

    def figures_of(clips: list[int]) -> dict[str, Any]:
        items = [decisions[i] for i in clips]
        sizes = [len(d.smoothed) for d in items]
        return {
            "utterance": figures(
                truth[clips],
                np.array([d.probabilities for d in items]).reshape(-1, n),
                np.array([d.sure for d in items], bool),
                n,
            ),
            "window": figures(
                np.repeat(truth[clips], sizes),
                np.concatenate([d.smoothed for d in items]) if items else np.zeros((0, n)),
                np.concatenate([d.window_sure for d in items]) if items else np.zeros(0, bool),
                n,
                np.repeat(clips, sizes),
            ),
        }

    clips = sorted(decisions)
    names = sorted(set(corpus[clips].tolist()))
    return {
        "overall": figures_of(clips),
        "corpora": {name: figures_of([i for i in clips if corpus[i] == name]) for name in names},
    }


def share_not_speech(decisions: Mapping[int, ClipDecisions]) -> float:
    """Share of the utterances that are rejected with the reason `not_speech`."""
    reasons = [u.reason for d in decisions.values() for u in d.utterances]
    return reasons.count(NOT_SPEECH) / max(1, len(reasons))
