"""Choose the parameters of the baseline by corpora left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.train.evaluation.streams.figures import AFTER, Heard, judge, uar_of

VALUES: dict[str, tuple[float, ...]] = {
    "prior_s": (3.0, 5.0, 10.0, 20.0),
    "trust": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
    "evidence_s": (3.0, 5.0, 10.0, 20.0),
    "variety": (0.0, 0.04, 0.07, 0.1, 0.14, 0.2),
    "mixed": (0.1, 0.15, 0.2, 0.25, 0.3, 0.35),
}
"""Values of which a candidate has one each."""
FADES = (0.03, 0.06, 0.1, 0.15, 0.2)
"""Values of `one_sided` - `mixed`."""
TEMPERATURES = tuple(np.round(np.arange(0.5, 2.05, 0.05), 2).tolist())
AIMED = ("40 % neutral", "70 % neutral", "90 % neutral", "speakers in turn")
"""Streams whose gain is wanted; in all others nothing must be lost."""
LOSS, CORPUS_LOSS = 0.005, 0.01
"""Largest loss of UAR in any scenario that a choice may have: of the mean over the corpora, and of
each corpus. On a corpus left out of the choice it is larger."""


def candidates(number: int, seed: int, base: Baseline) -> list[Baseline]:
    """Different combinations of `VALUES`, in a seeded order."""
    chance = np.random.default_rng(seed)
    found: dict[Baseline, None] = {}
    while len(found) < number:
        values: dict[str, Any] = {
            key: float(chance.choice(choices)) for key, choices in VALUES.items()
        }
        one_sided = round(values["mixed"] + float(chance.choice(FADES)), 2)
        found[dataclasses.replace(base, **values, one_sided=one_sided)] = None
    return list(found)


def gains(heard: Heard, temperature: float, tried: Sequence[Baseline]) -> dict[str, Any]:
    """Corpus → gain of UAR, (candidates, scenarios, numbers of utterances); NaN without streams."""
    names = sorted({name for rows in heard.values() for name in rows})
    found = {name: np.full((len(tried), len(heard), len(AFTER)), np.nan) for name in names}
    for s, rows in enumerate(heard.values()):
        for name, one in rows.items():
            cold = uar_of(judge(one, None, temperature, tried[0]).tables().sum(axis=0))
            for c, to in enumerate(tried):
                for k in range(len(AFTER)):
                    warm = judge(one, k, temperature, to).tables().sum(axis=0)
                    found[name][c, s, k] = uar_of(warm) - cold
    return found


def best(found: dict[str, Any], scenarios: Sequence[str], corpora: Sequence[str]) -> int:
    """The candidate with the largest mean gain after all utterances that loses little anywhere.

    If every candidate loses more than allowed, the one that loses least.
    """
    each = np.stack([found[name] for name in corpora])
    mean = np.nanmean(each, axis=0)
    lost = np.minimum(mean.min(axis=(1, 2)) + LOSS, np.nanmin(each, axis=(0, 2, 3)) + CORPUS_LOSS)
    aimed = mean[:, [scenarios.index(name) for name in AIMED], -1].mean(axis=1)
    if (lost >= 0).any():
        return int(np.where(lost >= 0, aimed, -np.inf).argmax())
    return int(lost.argmax())


def choose(
    heard: Heard, temperature: float, tried: Sequence[Baseline]
) -> tuple[Baseline, dict[str, Baseline]]:
    """The choice by all corpora, and for each corpus the choice by the others."""
    found, scenarios = gains(heard, temperature, tried), list(heard)
    names = list(found)

    def chosen(corpora: list[str]) -> Baseline:
        to = tried[best(found, scenarios, corpora)]
        return dataclasses.replace(to, temperature=fit_temperature(heard, corpora, temperature, to))

    others = {name: chosen([one for one in names if one != name]) for name in names}
    return chosen(names), others


def fit_temperature(
    heard: Heard, corpora: Sequence[str], temperature: float, to: Baseline
) -> float:
    """The temperature with the least cross-entropy after all utterances; corpora count alike."""

    def loss(warm: float) -> float:
        each = []
        for scenario in AIMED:
            for name in corpora:
                if name in heard[scenario]:
                    tuned = dataclasses.replace(to, temperature=warm)
                    judged = judge(heard[scenario][name], len(AFTER) - 1, temperature, tuned)
                    right = judged.probabilities[np.arange(len(judged.truth)), judged.truth]
                    each.append(-np.log(np.maximum(right, 1e-12)).mean())
        return float(np.mean(each))

    return float(min(TEMPERATURES, key=loss))


def text(to: Baseline) -> str:
    """The parameters that a choice changes, as `--set` takes them."""
    keys = (*VALUES, "one_sided", "memory_s", "temperature")
    return " ".join(f"{key}={getattr(to, key):g}" for key in keys)
