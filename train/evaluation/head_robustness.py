"""The robustness sweep of heads on Whisper's layers, on corpora and on speakers left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.train.data.clips import load
from speech_emotion.train.evaluation import held_out as study
from speech_emotion.train.evaluation.crossval import share_not_speech
from speech_emotion.train.evaluation.metrics import ece, uar
from speech_emotion.train.evaluation.robustness import CONDITIONS, changed, sweep_clips
from speech_emotion.train.model.whisper.graph import Head
from speech_emotion.train.model.whisper.heads import (
    LABELS,
    HeadTrainingSet,
    Index,
    WindowSums,
)
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics, of_changed

CLEAN = "clean"
Rates = dict[str, dict[str, float]]
"""Condition → `uar`, `ece`, `not_speech`: means over the corpora, fractions of 1."""


def changed_renderings(
    training_set: HeadTrainingSet,
    spec: FeatureSpec,
    encoder: Path,
    work: Path,
    seed: int,
    workers: int = 1,
) -> dict[str, WindowStatistics]:
    """Condition → statistics of the clips of the sweep; `clean` has the same clips unchanged."""
    chosen = sweep_clips(np.arange(len(training_set.clips)), seed)
    names = [training_set.clips[i].name for i in chosen]
    clean = training_set.renderings[0]
    rows = np.isin(clean.clip, chosen)
    found = {CLEAN: WindowStatistics(clean.x[rows], clean.clip[rows], clean.speech[rows])}
    for name in CONDITIONS:
        sounds = (
            changed(load(training_set.clips[i], spec.sample_rate), name, spec.sample_rate, seed, i)
            for i in chosen.tolist()
        )
        found[name] = of_changed(
            sounds,
            chosen,
            spec,
            encoder,
            work,
            key=(names, name, seed),
            title=name.replace(",", ""),
            workers=workers,
        )
    return found


def sweep(
    window_sums: WindowSums, renderings: Mapping[str, WindowStatistics], bundle: Bundle
) -> dict[str, Rates]:
    """Figures of every condition: `left_out`, of corpora, and `new_speakers`.

    Args:
        renderings: of `changed_renderings`.
        bundle: temperatures and thresholds.
    """
    return {
        "left_out": _rates(window_sums, study.corpus_heads(window_sums), renderings, bundle),
        "new_speakers": _rates(window_sums, study.speaker_heads(window_sums), renderings, bundle),
    }


def _rates(
    window_sums: WindowSums,
    heads: Iterable[tuple[Head, Index]],
    renderings: Mapping[str, WindowStatistics],
    bundle: Bundle,
) -> Rates:
    training_set, known = window_sums.training_set, list(heads)
    truth, corpus = training_set.truth, training_set.corpus
    rates = {}
    for name, rendering in renderings.items():
        changed_set = dataclasses.replace(training_set, renderings=[rendering])
        used = np.unique(rendering.clip)
        parts = ((head, np.intersect1d(clips, used)) for head, clips in known)
        outputs = study.left_out(changed_set, parts)
        decisions = study.decide_held_out(outputs, bundle)
        probabilities = np.array([d.probabilities for d in decisions])
        right = probabilities.argmax(axis=1) == truth[outputs.clips]
        rows = []
        for each in np.unique(corpus[outputs.clips]):
            at = corpus[outputs.clips] == each
            given = probabilities[at].argmax(axis=1)
            lost = share_not_speech({i: decisions[i] for i in np.flatnonzero(at).tolist()})
            rows.append(
                (
                    uar(truth[outputs.clips][at], given, len(LABELS)),
                    ece(right[at], probabilities[at].max(axis=1)),
                    lost,
                )
            )
        means = np.mean(rows, axis=0).tolist()
        rates[name] = dict(zip(("uar", "ece", "not_speech"), means, strict=True))
    return rates


def sweep_markdown(figures: Mapping[str, Rates]) -> str:
    """The figures of `sweep` as a Markdown table, each with its change against the clean clips."""
    lines = [
        "| condition | UAR, corpora left out | change | ECE | not speech "
        "| UAR, new speakers | change | ECE | not speech |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in figures["left_out"]:
        cells = []
        for rates in figures.values():
            row, clean = rates[name], rates[CLEAN]
            cells += [
                f"{100 * row['uar']:.1f}",
                f"{100 * (row['uar'] - clean['uar']):+.1f}",
                f"{100 * row['ece']:.1f}",
                f"{100 * row['not_speech']:.1f}",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
