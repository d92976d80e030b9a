"""The protocols of `crossval`: speaker folds, corpora left out, random split, false events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.train.data.nonspeech import mix, sound_files
from speech_emotion.train.data.splits import (
    Split,
    leave_corpus_out,
    random_folds,
    speaker_folds,
)
from speech_emotion.train.data.stream_features import ClipFeatures, extract_stream
from speech_emotion.train.evaluation.crossval import (
    calibrate_on,
    cross_calibrated,
    decide_clips,
    share_not_speech,
    summarize,
    uncalibrated_bundle,
)
from speech_emotion.train.evaluation.false_events import SECONDS, SEED, false_events
from speech_emotion.train.evaluation.held_out import HeldOutOutputs
from speech_emotion.train.evaluation.metrics import risk_at
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions
from speech_emotion.train.evaluation.robustness import features_by_condition, robustness_figures
from speech_emotion.train.evaluation.webrtc_vad import replace_speech_output, voiced_share
from speech_emotion.train.model.fold_outputs import Outputs
from speech_emotion.train.model.training_job import TrainingJob


@dataclasses.dataclass(frozen=True)
class Folds:
    """Outputs of the fold models for clips of speakers they were not trained on.

    Attributes:
        splits: one per fold.
        outputs: per fold, condition → clip index → raw outputs (speech windows, outputs).
        features: condition → clip index → features; `clean` holds all labelled clips.
    """

    splits: list[Split]
    outputs: list[dict[str, Outputs]]
    features: dict[str, dict[int, ClipFeatures]]

    @property
    def clean(self) -> list[Outputs]:
        """Per fold, the outputs for the unchanged clips."""
        return [o["clean"] for o in self.outputs]


def run_folds(
    job: TrainingJob, features: dict[int, ClipFeatures], *, sweep: bool = False, folds: int = 5
) -> Folds:
    """Train the speaker-independent folds, or read them from the work folder.

    Args:
        features: clip index → features of the unchanged clip.
        sweep: apply the conditions of the robustness sweep, too.
    """
    conditions = {"clean": features}
    if sweep:
        conditions |= features_by_condition(job)
    splits = speaker_folds(job.training_set.clips, folds)
    return Folds(splits, [job.run(split, conditions) for split in splits], conditions)


def held_out_outputs(
    job: TrainingJob, splits: Sequence[Split], features: dict[int, ClipFeatures]
) -> HeldOutOutputs:
    """Outputs for the test clips of some splits, each by a model of the split's training clips.

    Args:
        features: clip index → features of the unchanged clip.
    """
    found: Outputs = {}
    for split in splits:
        found |= job.run(split, {"clean": features})["clean"]
    clips = np.array(sorted(found))
    return HeldOutOutputs(
        clips, [found[i] for i in clips], [None] * len(clips), [features[i] for i in clips]
    )


def calibrate_on_folds(job: TrainingJob, folds: Folds, without: str = "") -> Bundle:
    """A bundle with temperatures and thresholds fitted on the clips of all folds.

    Every clip's outputs come from a model that was not trained on its speaker.

    Args:
        without: name of a corpus whose clips are not used.
    """
    corpus = job.corpus
    outputs = {i: o for fold in folds.clean for i, o in fold.items() if corpus[i] != without}
    bundle = uncalibrated_bundle(job)
    return calibrate_on(bundle, outputs, folds.features["clean"], job.truth, corpus)


def fold_figures(job: TrainingJob, folds: Folds) -> dict[str, Any]:
    """Figures on new speakers: `folds`, `risk`, `speech_lost` and, after a sweep, `robustness`.

    A fold's temperatures and thresholds are fitted on the other folds.
    """
    bundle, features = uncalibrated_bundle(job), folds.features
    decisions = cross_calibrated(bundle, folds.clean, features["clean"], job.truth, job.corpus)
    figures: dict[str, Any] = {
        "folds": summarize(decisions, job.truth, job.corpus, len(job.labels)),
        "risk": _risk(job, decisions),
        "speech_lost": share_not_speech(decisions),
    }
    conditions = [c for c in features if c != "clean"]
    if conditions:
        tuned = calibrate_on_folds(job, folds)
        figures["robustness"] = {
            c: robustness_figures(job, tuned, folds.outputs, features, c) for c in conditions
        }
    return figures


def _risk(job: TrainingJob, decisions: Mapping[int, ClipDecisions]) -> dict[str, float]:
    """Share of wrong labels over all clips, and over the 70 % of highest confidence."""
    clips = sorted(decisions)
    probabilities = np.array([decisions[i].probabilities for i in clips])
    right = probabilities.argmax(axis=1) == job.truth[clips]
    confidence = probabilities.max(axis=1)
    return {"full": float(1 - right.mean()), "at_70": risk_at(right, confidence, 0.7)}


def corpus_figures(job: TrainingJob, folds: Folds) -> dict[str, Any]:
    """Figures on each corpus that was left out of both training and calibration."""
    decisions: dict[int, ClipDecisions] = {}
    features = folds.features["clean"]
    for split in leave_corpus_out(job.training_set.clips):
        tuned = calibrate_on_folds(job, folds, without=str(job.corpus[split.test[0]]))
        outputs = job.run(split, {"clean": features})["clean"]
        decisions |= decide_clips(tuned, features, outputs)
    return summarize(decisions, job.truth, job.corpus, len(job.labels))


def leak_figures(job: TrainingJob, folds: Folds) -> dict[str, Any]:
    """Figures of a random fifth of the clips, with the same speakers in training and test.

    They are too high; they show how much a random split overestimates.
    """
    split = random_folds(job.training_set.clips, seed=job.seed)[0]
    features = folds.features["clean"]
    outputs = job.run(split, {"clean": features})["clean"]
    decisions = decide_clips(calibrate_on_folds(job, folds), features, outputs)
    return summarize(decisions, job.truth, job.corpus, len(job.labels))


def event_figures(
    job: TrainingJob, folds: Folds, sounds: Path, *, webrtc: bool = False
) -> dict[str, Any]:
    """False events on a seeded mix without speech, the mean over the fold models.

    With a speech head, also: the rate without it (`without_head`) and the share of speech that
    it rejects (`speech_lost`).

    Args:
        sounds: folder of sound files without speech.
        webrtc: also replace the speech head by WebRTC's voice detector, with thresholds fitted
            by the same rule (`webrtc`, `webrtc_speech_lost`).

    Raises:
        UserError: the folder has no sound files, or WebRTC's detector is not available.
    """
    spec = job.plan.spec
    samples, parts = mix(spec.sample_rate, SECONDS, SEED, sound_files(sounds))
    stream = extract_stream(samples, spec)
    outputs = [job.model(split).outputs(stream.x) for split in folds.splits]
    tuned = calibrate_on_folds(job, folds)

    def mean(bundle: Bundle, outputs: list[NDArray[np.float32]]) -> dict[str, Any]:
        return _mean([false_events(stream, o, bundle, parts) for o in outputs])

    figures = mean(tuned, outputs)
    if not tuned.speech_output:
        return figures
    clean = folds.features["clean"]
    figures["speech_lost"] = share_not_speech(_decide_folds(tuned, folds.clean, clean))
    accept_all = dataclasses.replace(tuned.decision, min_speech=0.0, min_utterance_speech=0.0)
    without_head = mean(dataclasses.replace(tuned, decision=accept_all), outputs)
    figures["without_head"] = without_head["per_hour"]
    if webrtc:
        replaced = [
            {
                i: replace_speech_output(o, voiced_share(job.sounds[i], spec), clean[i].kind)
                for i, o in fold.items()
            }
            for fold in folds.clean
        ]
        other_folds = dataclasses.replace(folds, outputs=[{"clean": o} for o in replaced])
        other = calibrate_on_folds(job, other_folds)
        share = voiced_share(samples, spec)
        on_mix = mean(other, [replace_speech_output(o, share, stream.kind) for o in outputs])
        figures["webrtc"] = on_mix["per_hour"]
        figures["webrtc_speech_lost"] = share_not_speech(_decide_folds(other, replaced, clean))
    return figures


def _decide_folds(
    bundle: Bundle, folds: Sequence[Outputs], features: Mapping[int, ClipFeatures]
) -> dict[int, ClipDecisions]:
    """Decisions for every fold's clips with one bundle."""
    return {i: d for fold in folds for i, d in decide_clips(bundle, features, fold).items()}


def _mean(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the figures of several models on the same mix."""
    first = figures[0]
    kinds = {k: float(np.mean([f["by_kind"][k] for f in figures])) for k in first["by_kind"]}
    per_hour = float(np.mean([f["per_hour"] for f in figures]))
    return {**first, "per_hour": per_hour, "by_kind": kinds}
