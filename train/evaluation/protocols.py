"""The whole of `crossval`: folds, corpora left out, the random split's leak, robustness."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.infer.decision import NOT_SPEECH
from speech_emotion.train.data import nonspeech
from speech_emotion.train.data.augment import (
    coloured_noise,
    quantize,
    reverberate,
    speech_dbfs,
    telephone,
)
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.splits import (
    Split,
    leave_corpus_out,
    random_folds,
    speaker_folds,
)
from speech_emotion.train.evaluation.crossval import (
    Outputs,
    calibrate_on,
    cross_calibrated,
    hear_subset,
    judge_all,
    summarize,
)
from speech_emotion.train.evaluation.metrics import risk_at, uar
from speech_emotion.train.evaluation.offline_decisions import Heard, Judged
from speech_emotion.train.evaluation.webrtc_vad import in_place_of, voiced
from speech_emotion.train.model.training_job import Job, blank_bundle

log = logging.getLogger("train")

SWEEP_SHARE = 4
"""The robustness sweep listens to every fourth clip, drawn by seed."""

Change = Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.float64]]


def at_snr(snr_db: float) -> Change:
    """Coloured noise below the speech by so many dB."""

    def change(x: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return x + coloured_noise(len(x), rate, rng) * 10 ** ((speech_dbfs(x) - snr_db) / 20)

    return change


def at_level(dbfs: float) -> Change:
    """The whole clip at an RMS level, lower if it would clip."""

    def change(
        x: NDArray[np.float64], _rate: int, _rng: np.random.Generator
    ) -> NDArray[np.float64]:
        gain = 10 ** (dbfs / 20) / (float(np.sqrt(np.mean(x**2))) + 1e-12)
        return np.asarray(x * min(gain, 0.99 / float(np.abs(x).max())))

    return change


CONDITIONS: dict[str, Change] = {
    "noise, 20 dB SNR": at_snr(20.0),
    "noise, 10 dB SNR": at_snr(10.0),
    "noise, 5 dB SNR": at_snr(5.0),
    "noise, 0 dB SNR": at_snr(0.0),
    "level -20 dBFS": at_level(-20.0),
    "level -35 dBFS": at_level(-35.0),
    "level -45 dBFS": at_level(-45.0),
    "level -55 dBFS": at_level(-55.0),
    "telephone band": lambda x, rate, _rng: telephone(x, rate),
    "reverberation": reverberate,
}


@dataclasses.dataclass(frozen=True)
class Folds:
    """Outputs of the fold models on clips of speakers they never heard, under each condition."""

    splits: list[Split]
    outputs: list[dict[str, Outputs]]
    heard: dict[str, dict[int, Heard]]

    @property
    def clean(self) -> list[Outputs]:
        return [o["clean"] for o in self.outputs]


def run_folds(job: Job, heard: dict[int, Heard], *, sweep: bool = False, folds: int = 5) -> Folds:
    """Train the speaker-independent folds, or take them from the work folder."""
    conditions = {"clean": heard}
    if sweep:
        rng = np.random.default_rng(job.seed)
        clips = job.labelled
        chosen = np.sort(rng.choice(clips, max(1, len(clips) // SWEEP_SHARE), replace=False))
        for name, change in CONDITIONS.items():
            log.info("hearing: %s", name)
            conditions[name] = hear_subset(
                {int(i): _changed(job.sounds[i], job, change, int(i)) for i in chosen},
                chosen,
                job.plan.spec,
            )
    splits = speaker_folds(job.material.clips, folds)
    return Folds(splits, [job.run(split, conditions) for split in splits], conditions)


def _changed(samples: Samples, job: Job, change: Change, number: int) -> Samples:
    rng = np.random.default_rng([job.seed, number])
    return quantize(change(samples.astype(np.float64), job.plan.spec.sample_rate, rng))


def tune(job: Job, folds: Folds, without: str = "") -> Bundle:
    """Temperatures and thresholds from all folds: every clip judged by a model that had
    not heard its speaker. `without` leaves out a corpus."""
    corpus = job.corpus
    outputs = {i: o for fold in folds.clean for i, o in fold.items() if corpus[i] != without}
    return calibrate_on(blank_bundle(job), outputs, folds.heard["clean"], job.truth, corpus)


def fold_figures(job: Job, folds: Folds) -> dict[str, Any]:
    """Figures on new speakers: `folds`, `risk` and, where it was heard, `robustness`.

    A fold's temperatures and thresholds come from the other folds.
    """
    bundle, heard = blank_bundle(job), folds.heard
    judged = cross_calibrated(bundle, folds.clean, heard["clean"], job.truth, job.corpus)
    n = len(job.labels)
    found: dict[str, Any] = {
        "folds": summarize(judged, job.truth, job.corpus, n),
        "risk": _risk(job, judged),
        "speech_lost": rejected(judged),
    }
    conditions = [c for c in heard if c != "clean"]
    if conditions:
        tuned = tune(job, folds)
        found["robustness"] = {c: _robustness(job, folds, tuned, c) for c in conditions}
    return found


def _risk(job: Job, judged: dict[int, Judged]) -> dict[str, float]:
    clips = sorted(judged)
    said = np.array([judged[i].probabilities for i in clips])
    right = said.argmax(axis=1) == job.truth[clips]
    confidence = said.max(axis=1)
    return {"full": float(1 - right.mean()), "at_70": risk_at(right, confidence, 0.7)}


def _robustness(job: Job, folds: Folds, tuned: Bundle, condition: str) -> dict[str, float]:
    clips = sorted(folds.heard[condition])

    def judged_at(condition: str) -> dict[int, Judged]:
        judged: dict[int, Judged] = {}
        for fold in folds.outputs:
            chosen = {i: o for i, o in fold[condition].items() if i in wanted}
            judged |= judge_all(tuned, folds.heard[condition], chosen)
        return judged

    def mean_uar(judged: Mapping[int, Judged]) -> float:
        said = np.array([judged[i].probabilities for i in clips]).argmax(axis=1)
        corpus, truth = job.corpus[clips], job.truth[clips]
        names = sorted(set(corpus.tolist()))
        each = [uar(truth[corpus == c], said[corpus == c], len(job.labels)) for c in names]
        return float(np.mean(each))

    wanted = set(clips)
    judged = judged_at(condition)
    return {
        "uar": mean_uar(judged),
        "clean": mean_uar(judged_at("clean")),
        "speech_lost": rejected(judged),
        "unheard": float(np.mean([folds.heard[condition][i].forced for i in clips])),
    }


def corpus_figures(job: Job, folds: Folds) -> dict[str, Any]:
    """Figures on corpora that the model never heard, nor the calibration."""
    judged: dict[int, Judged] = {}
    heard = folds.heard["clean"]
    for split in leave_corpus_out(job.material.clips):
        tuned = tune(job, folds, without=str(job.corpus[split.test[0]]))
        judged |= judge_all(tuned, heard, job.run(split, {"clean": heard})["clean"])
    return summarize(judged, job.truth, job.corpus, len(job.labels))


def leak_figures(job: Job, folds: Folds) -> dict[str, Any]:
    """Figures of a random fifth of the clips, speakers on both sides: too good to be true."""
    split, heard = random_folds(job.material.clips, seed=job.seed)[0], folds.heard["clean"]
    judged = judge_all(tune(job, folds), heard, job.run(split, {"clean": heard})["clean"])
    return summarize(judged, job.truth, job.corpus, len(job.labels))


EVENTS_S = 7200.0
EVENTS_SEED = 1


def event_figures(job: Job, folds: Folds, sounds: Path, *, webrtc: bool = False) -> dict[str, Any]:
    """False events on a seeded mix of non-speech, the mean of all fold models.

    Where there is a speech head: also without it and, if asked, with WebRTC's detector in its
    place, its thresholds set by the same rule; and how much speech each takes for none.
    """
    files = nonspeech.sound_files(sounds)
    samples, parts = nonspeech.mix(job.plan.spec.sample_rate, EVENTS_S, EVENTS_SEED, files)
    heard = nonspeech.hear_mix(samples, job.plan.spec)
    outputs = [job.model(split).outputs(heard.x) for split in folds.splits]
    tuned = tune(job, folds)

    def mean(bundle: Bundle, outputs: list[NDArray[np.float32]]) -> dict[str, Any]:
        return _mean([nonspeech.false_events(heard, o, bundle, parts) for o in outputs])

    figures = mean(tuned, outputs)
    if not tuned.speech_output:
        return figures
    open_ = dataclasses.replace(tuned.decision, min_speech=0.0, min_utterance_speech=0.0)
    clean = folds.heard["clean"]
    figures["speech_lost"] = rejected(cross_judged(tuned, folds.clean, clean))
    figures["without_head"] = mean(dataclasses.replace(tuned, decision=open_), outputs)["per_hour"]
    if webrtc:
        spec = job.plan.spec
        replaced = [
            {i: in_place_of(o, voiced(job.sounds[i], spec), clean[i].kind) for i, o in fold.items()}
            for fold in folds.clean
        ]
        other = tune(job, dataclasses.replace(folds, outputs=[{"clean": o} for o in replaced]))
        voices = voiced(samples, spec)
        figures["webrtc"] = mean(other, [in_place_of(o, voices, heard.kind) for o in outputs])[
            "per_hour"
        ]
        figures["webrtc_speech_lost"] = rejected(cross_judged(other, replaced, clean))
    return figures


def cross_judged(
    bundle: Bundle, folds: Sequence[Outputs], heard: Mapping[int, Heard]
) -> dict[int, Judged]:
    """Every fold's clips judged with one bundle."""
    return {i: j for fold in folds for i, j in judge_all(bundle, heard, fold).items()}


def rejected(judged: Mapping[int, Judged]) -> float:
    """Share of the utterances that are taken for no speech."""
    reasons = [u.reason for j in judged.values() for u in j.utterances]
    return reasons.count(NOT_SPEECH) / max(1, len(reasons))


def _mean(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of several models on one mix: their means."""
    first = found[0]
    kinds = {k: float(np.mean([f["by_kind"][k] for f in found])) for k in first["by_kind"]}
    per_hour = float(np.mean([f["per_hour"] for f in found]))
    return {**first, "per_hour": per_hour, "by_kind": kinds}
