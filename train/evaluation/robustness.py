"""The robustness sweep: the same clips with noise, at other levels, over a telephone, in a room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.train.data.augment import (
    coloured_noise,
    quantize,
    reverberate,
    speech_dbfs,
    telephone,
)
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.stream_features import ClipFeatures, extract_chosen
from speech_emotion.train.evaluation.crossval import decide_clips, share_not_speech
from speech_emotion.train.evaluation.metrics import uar
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions
from speech_emotion.train.model.fold_outputs import Outputs
from speech_emotion.train.model.training_job import TrainingJob

log = logging.getLogger("train")

SWEEP_SHARE = 4
"""The sweep uses one clip in four, drawn by the job's seed."""

Change = Callable[[NDArray[np.float64], int, np.random.Generator], NDArray[np.float64]]
"""(samples (n,), rate in Hz, random generator) → changed samples (n,)."""


def at_snr(snr_db: float) -> Change:
    """Add coloured noise at a signal-to-noise ratio in dB."""

    def change(x: NDArray[np.float64], rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
        return x + coloured_noise(len(x), rate, rng) * 10 ** ((speech_dbfs(x) - snr_db) / 20)

    return change


def at_level(dbfs: float) -> Change:
    """Scale the whole clip to an RMS level in dBFS; use a lower level where it would clip."""

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


def features_by_condition(job: TrainingJob) -> dict[str, dict[int, ClipFeatures]]:
    """Condition → clip index → features of the changed clip, for the clips of the sweep."""
    chosen, rate = sweep_clips(job.labelled, job.seed), job.plan.spec.sample_rate
    features = {}
    for name in CONDITIONS:
        log.info("features: %s", name)
        sounds = {int(i): changed(job.sounds[i], name, rate, job.seed, int(i)) for i in chosen}
        features[name] = extract_chosen(sounds, chosen, job.plan.spec)
    return features


def sweep_clips(clips: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The clips of the sweep, one in `SWEEP_SHARE`, in their order."""
    count = max(1, len(clips) // SWEEP_SHARE)
    return np.sort(np.random.default_rng(seed).choice(clips, count, replace=False))


def changed(samples: Samples, condition: str, rate: int, seed: int, clip: int) -> Samples:
    """A clip's sound under a condition; `seed` and the clip's index determine the noise."""
    rng = np.random.default_rng([seed, clip])
    return quantize(CONDITIONS[condition](samples.astype(np.float64), rate, rng))


def robustness_figures(
    job: TrainingJob,
    bundle: Bundle,
    outputs: Sequence[Mapping[str, Outputs]],
    features: Mapping[str, Mapping[int, ClipFeatures]],
    condition: str,
) -> dict[str, float]:
    """Figures of one condition, each the mean over the corpora, as fractions of 1.

    Args:
        bundle: calibrated; every fold is decided with it.
        outputs: per fold, condition → clip → raw outputs.
        features: condition → clip → features; `clean` holds all clips.

    Returns:
        `uar`: under the condition; `clean`: of the same clips unchanged; `speech_lost`: share
        of the utterances with the reason `not_speech`; `unheard`: share of the clips in which
        the gate found no speech.
    """
    clips = sorted(features[condition])
    wanted = set(clips)

    def decisions_under(name: str) -> dict[int, ClipDecisions]:
        decisions: dict[int, ClipDecisions] = {}
        for fold in outputs:
            chosen = {i: o for i, o in fold[name].items() if i in wanted}
            decisions |= decide_clips(bundle, features[name], chosen)
        return decisions

    def mean_uar(decisions: Mapping[int, ClipDecisions]) -> float:
        predicted = np.array([decisions[i].probabilities for i in clips]).argmax(axis=1)
        corpus, truth = job.corpus[clips], job.truth[clips]
        names = sorted(set(corpus.tolist()))
        each = [uar(truth[corpus == c], predicted[corpus == c], len(job.labels)) for c in names]
        return float(np.mean(each))

    decisions = decisions_under(condition)
    return {
        "uar": mean_uar(decisions),
        "clean": mean_uar(decisions_under("clean")),
        "speech_lost": share_not_speech(decisions),
        "unheard": float(np.mean([features[condition][i].forced for i in clips])),
    }
