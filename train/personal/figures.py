"""What a map gains after some labels: in homes of people whom the model has not heard.

A home is some people of one corpus. Half of their clips come in a random order and are labelled;
maps are fitted to the first of them. The other half, and the clips of other people of the corpus,
are judged. Each clip is an utterance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.infer.baseline import BaselineState, Trust, observe, trust_in
from speech_emotion.train.evaluation.metrics import ece
from speech_emotion.train.evaluation.streams.figures import (
    Judged,
    blended,
    evidence_of,
    resampled_gains,
    uar_of,
)
from speech_emotion.train.evaluation.streams.scenarios import halves
from speech_emotion.train.evaluation.streams.window_outputs import (
    Index,
    Matrix,
    Parameters,
    WindowOutputs,
)
from speech_emotion.train.personal.fit import (
    Examples,
    Map,
    adapt,
    compare,
    losses,
    predict_kept_back,
    scores_of,
)

AFTER = (20, 50, 100)
"""Numbers of labels."""
MOST_PEOPLE = 2 / 3
"""Largest share of a corpus's people in a home; the others are judged, too."""
LISTENERS = ("the same people", "other people")
VARIANTS = ("before", "after", "always")
"""Without a map; with one where it was better on held-out labels; with one in any case."""


@dataclasses.dataclass(frozen=True)
class Home:
    """Clips of one home.

    Attributes:
        labelled: in the order in which they are heard and labelled.
        judged: clips of the same people, and of other people of the corpus.
    """

    labelled: Index
    judged: tuple[Index, Index]


def make_homes(outputs: WindowOutputs, seeds: Sequence[int], labels: int) -> Iterator[Home]:
    """One home per seed, with people until half of their clips are at least `labels`."""
    for seed in seeds:
        chance = np.random.default_rng([seed, 2])
        people = chance.permutation(int(outputs.speaker.max()) + 1)
        most = max(1, round(MOST_PEOPLE * len(people)))
        pool, mine, others = np.zeros(0, np.int64), [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, person in enumerate(people):
            pools, tests = halves(outputs, int(person), chance)
            if number < most and len(pool) < labels:
                pool = np.concatenate([pool, *pools])
                mine.append(tests)
            else:
                others.append(tests)
        labelled = chance.permutation(pool)[:labels]
        yield Home(labelled, (np.concatenate(mine), np.concatenate(others)))


@dataclasses.dataclass
class Tally:
    """Judged utterances of the homes of one corpus after some labels.

    Attributes:
        judged: variant → utterances of each home.
        replaced: per home, whether the map was better on held-out labels.
        labels: per home, the number of labels.
    """

    judged: dict[str, list[Judged]]
    replaced: list[bool]
    labels: list[int]


def measure(
    outputs: WindowOutputs, homes: Sequence[Home], given: Parameters, *, baseline: bool
) -> dict[str, dict[int, Tally]]:
    """Who is judged → number of labels → utterances judged in all homes.

    Args:
        baseline: the stream of the labelled clips has a baseline.
    """
    found = {
        listener: {n: Tally({v: [] for v in VARIANTS}, [], []) for n in AFTER}
        for listener in LISTENERS
    }
    for home in homes:
        trusts = _trusts(outputs, home.labelled, given.baseline, baseline=baseline)
        scores = scores_of(_means(outputs, home.labelled, trusts[:-1], given)[0])
        for n in AFTER:
            labelled = Examples(scores[:n], outputs.truth[home.labelled[:n]])
            before = Map.identity(len(outputs.labels)).probabilities(labelled.scores)
            better = compare(labelled.truth, before, predict_kept_back(labelled)).better
            chosen = adapt(labelled)
            for listener, clips in zip(LISTENERS, home.judged, strict=True):
                if not len(clips):
                    continue
                trust = [trusts[min(n, len(labelled))]] * len(clips)
                own, mapped = _means(outputs, clips, trust, given, chosen)
                tally, speaker = found[listener][n], outputs.speaker[clips]
                for variant, p in (
                    ("before", own),
                    ("after", mapped if better else own),
                    ("always", mapped),
                ):
                    tally.judged[variant].append(Judged(speaker, outputs.truth[clips], p))
                tally.replaced.append(better)
                tally.labels.append(len(labelled))
    return found


def _trusts(outputs: WindowOutputs, clips: Index, to: Baseline, *, baseline: bool) -> list[Trust]:
    """Trust before each clip of a stream, and after the last."""
    to = dataclasses.replace(to, prior=(0.0,) * len(outputs.labels), bias=tuple(outputs.bias))
    neutral, state = outputs.labels.index("neutral"), BaselineState.empty(len(outputs.labels))
    evidence = evidence_of(outputs) if baseline else [None] * outputs.clips
    found = [trust_in(state, to, neutral)]
    for clip in clips:
        state = observe(state, evidence[clip], to, ended=True)
        found.append(trust_in(state, to, neutral))
    return found


def _means(
    outputs: WindowOutputs,
    clips: Index,
    trusts: Sequence[Trust],
    given: Parameters,
    chosen: Map | None = None,
) -> tuple[Matrix, Matrix]:
    """Mean probabilities of clips without and with a map of their windows, (clips, labels) each."""
    rows = outputs.windows_of(clips)
    windows = np.bincount(outputs.clip, minlength=outputs.clips)[clips]
    owner = np.repeat(np.arange(len(clips)), windows)
    p = blended(outputs, rows, trusts, owner, given.calibration.temperature, given.baseline)
    first = np.cumsum(windows) - windows
    mapped = p if chosen is None else chosen.probabilities(scores_of(p))
    own, adapted = (
        np.add.reduceat(one, first, axis=0) / windows[:, np.newaxis] for one in (p, mapped)
    )
    return own, adapted


def figures(
    corpora: Sequence[WindowOutputs], given: Parameters, seeds: Sequence[int]
) -> dict[str, Any]:
    """Baseline on or off → who is judged → number of labels → corpus, and `mean`, → figures."""
    homes = {one.name: list(make_homes(one, seeds, max(AFTER))) for one in corpora}
    found: dict[str, Any] = {}
    for mode in ("with a baseline", "without a baseline"):
        tallies = {
            one.name: measure(one, homes[one.name], given, baseline=mode.startswith("with "))
            for one in corpora
        }
        found[mode] = {
            listener: {
                str(n): _rows({k: t[listener][n] for k, t in tallies.items()}, given, corpora[0])
                for n in AFTER
            }
            for listener in LISTENERS
        }
    return found


def _rows(
    tallies: dict[str, Tally], given: Parameters, outputs: WindowOutputs
) -> dict[str, dict[str, Any]]:
    neutral = outputs.labels.index("neutral")
    rows: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[Matrix]] = {"after": [], "always": []}
    for name, tally in tallies.items():
        if not tally.replaced:
            continue
        whole = {variant: _joined(parts) for variant, parts in tally.judged.items()}
        row: dict[str, Any] = {
            "homes": len(tally.replaced),
            "labels": float(np.mean(tally.labels)),
            "judged": len(whole["before"].truth),
            "replaced": float(np.mean(tally.replaced)),
        }
        for variant, one in whole.items():
            confidence = one.probabilities.max(axis=1)
            row[variant] = {
                "uar": uar_of(one.tables().sum(axis=0)),
                "cross_entropy": _cross_entropy(one),
                "ece": ece(one.probabilities.argmax(axis=1) == one.truth, confidence),
                "worse": _worse(tally.judged["before"], tally.judged[variant]),
                **one.labelled(given, neutral),
            }
            if variant != "before":
                gains = resampled_gains(whole["before"].tables(), one.tables())
                samples[variant].append(gains)
                row[variant] |= _gain(row, variant, gains)
        rows[name] = row
    rows["mean"] = _mean(rows, samples)
    return rows


def _worse(before: Sequence[Judged], after: Sequence[Judged]) -> float:
    """Share of the homes whose judged utterances have a higher cross-entropy with a map."""
    pairs = zip(before, after, strict=True)
    return float(np.mean([_cross_entropy(new) > _cross_entropy(old) for old, new in pairs]))


def _cross_entropy(one: Judged) -> float:
    return float(losses(one.probabilities, one.truth).mean())


def _gain(row: dict[str, Any], variant: str, gains: Matrix) -> dict[str, Any]:
    interval = [float(np.quantile(gains, share)) for share in (0.025, 0.975)]
    return {"gain": row[variant]["uar"] - row["before"]["uar"], "gain_ci": interval}


def _mean(rows: dict[str, dict[str, Any]], samples: dict[str, list[Matrix]]) -> dict[str, Any]:
    """Means over the corpora; the intervals by independent resamples of each corpus."""
    each = list(rows.values())
    mean: dict[str, Any] = {"replaced": float(np.mean([row["replaced"] for row in each]))}
    for variant in VARIANTS:
        keys = [key for key in each[0][variant] if key not in ("gain", "gain_ci")]
        mean[variant] = {k: float(np.mean([row[variant][k] for row in each])) for k in keys}
        if variant != "before":
            chance = np.random.default_rng(0)
            mixed = np.mean([chance.permutation(one) for one in samples[variant]], axis=0)
            mean[variant] |= _gain(mean, variant, mixed)
    return mean


def _joined(parts: Sequence[Judged]) -> Judged:
    return Judged(
        np.concatenate([one.speaker for one in parts]),
        np.concatenate([one.truth for one in parts]),
        np.concatenate([one.probabilities for one in parts]),
    )


def table(rows: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """UAR of one mode and listener without and with a map as a Markdown table.

    In brackets the 95 % interval of the gain; in the last column the share of the homes whose map
    was better on held-out labels, per number of labels.

    Args:
        rows: number of labels → corpus → figures.
        names: of the corpora.
    """
    heads = ["corpus", *(f"after {n} labels" for n in AFTER), "replaced"]
    lines = [heads, ["---"] * len(heads)]
    for name in (*names, "mean"):
        each = [rows[str(n)].get(name) for n in AFTER]
        there = [one for one in each if one is not None]
        if len(there) < len(AFTER):
            continue
        cells = []
        for one in there:
            low, high = (100 * x for x in one["after"]["gain_ci"])
            before, after = (100 * one[variant]["uar"] for variant in ("before", "after"))
            cells.append(f"{before:.1f} → {after:.1f} ({low:+.1f} to {high:+.1f})")
        shares = " ".join(f"{100 * one['replaced']:.0f}" for one in there)
        lines.append([name, *cells, shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def other_figures(rows: dict[str, dict[str, Any]]) -> str:
    """Means over the corpora of the other figures as a Markdown table."""
    heads = ["labels", "variant", "UAR", "gain", "ECE", "cross-entropy", "homes worse"]
    heads += ["false / found"]
    lines = [heads, ["---"] * len(heads)]
    for n in AFTER:
        for variant in VARIANTS:
            one = rows[str(n)]["mean"][variant]
            low, high = (100 * x for x in one.get("gain_ci", (0.0, 0.0)))
            gain = f"{100 * one['gain']:+.1f} ({low:+.1f} to {high:+.1f})" if "gain" in one else ""
            lines.append(
                [
                    str(n),
                    variant,
                    f"{100 * one['uar']:.1f}",
                    gain,
                    f"{100 * one['ece']:.1f}",
                    f"{one['cross_entropy']:.3f}",
                    f"{100 * one['worse']:.0f} %",
                    f"{one['false_per_100']:.1f} / {one['found_per_100']:.1f}",
                ]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
