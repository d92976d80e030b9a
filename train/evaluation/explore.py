"""Comparison of ideas: one row each, on speaker-independent folds and on corpora left out.

The rows share log-mel features and a short training without augmented copies, so that they are
comparable with each other; the shipped recipes train longer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from speech_emotion.train.data.splits import leave_corpus_out, speaker_folds
from speech_emotion.train.data.stream_features import ClipFeatures
from speech_emotion.train.evaluation.crossval import decide_clips, summarize, uncalibrated_bundle
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions
from speech_emotion.train.model.network import Network
from speech_emotion.train.model.recipe import Plan, Recipe
from speech_emotion.train.model.training_job import TrainingJob

BASE: dict[str, Any] = {
    "n_mfcc": 0,
    "n_mels": 64,
    "copies": 0,
    "batch": 32,
    "steps": 1000,
    "balance": 0.0,
    "noise": 0.0,
    "channel_dropout": 0.05,
}
FINER = {"n_fft": 512, "hop_length": 320}
LARGER = {"channels": (32, 64, 96, 128), "hidden": 128}

ROWS: dict[str, dict[str, Any]] = {
    "base": {},
    "window 2.0 s": {"window_s": 2.0},
    "window 3.0 s": {"window_s": 3.0},
    "finer frames": FINER,
    "40 mels": {"n_mels": 40},
    "40 MFCC": {"n_mels": 0, "n_mfcc": 40},
    "MFCC with chroma and 15 mels": {"n_mfcc": 40, "chroma": True, "n_mels": 15},
    "40 MFCC without level": {"n_mels": 0, "n_mfcc": 40, "centre_first": True},
    "40 MFCC and chroma without level": {
        "n_mels": 0,
        "n_mfcc": 40,
        "centre_first": True,
        "chroma": True,
    },
    "MFCC with chroma and 15 mels without level": {
        "n_mfcc": 40,
        "centre_first": True,
        "chroma": True,
        "n_mels": 15,
    },
    "level not removed": {"mel": "db"},
    "channel-invariant": {"centre": True},
    "both channels": {"contrast": True},
    "larger network": LARGER,
    "smaller network": {"channels": (8, 16, 24, 32), "hidden": 32},
    "GRU": {"recurrent": True},
    "corpora by size": {"balance": 1.0},
    "no masking": {"masking": False},
    "mixup": {"mixup": 0.3},
    "another voice and pace": {"warp": 0.08},
    "other frequency responses": {"tilt": 3.0},
    "no emotion head": {"emotion_head": 0.0},
    "augmented copies": {"copies": 3},
    "speech head": {"noise": 0.12, "speech_head": 0.3},
    "large speech model distilled": {"distil": 0.5},
    "its embedding taught": {"teacher": 0.5},
    "three larger networks distilled": {"ensemble": 3, "distil": 0.5},
    "four times as long": {"steps": 4000},
}
"""Name → changes to `BASE`, as keys of the feature spec, the recipe and the network."""


def plan_of(base: Plan, changes: Mapping[str, Any]) -> Plan:
    """The plan with the values of `BASE` and the changes of a row."""

    def pick(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        return {f.name: given[f.name] for f in dataclasses.fields(cls) if f.name in given}

    values = {**BASE, **changes}
    spec = dataclasses.replace(base.spec, **pick(type(base.spec), values))
    network = Network(**pick(Network, values))
    recipe = Recipe(**{**pick(Recipe, values), "labels": base.recipe.labels, "network": network})
    return dataclasses.replace(base, spec=spec, recipe=recipe)


def run_row(job: TrainingJob, features: Mapping[int, ClipFeatures]) -> dict[str, Any]:
    """Corpus → utterance UAR on new speakers (`folds`) and on corpora left out (`unheard`)."""
    bundle = uncalibrated_bundle(job)
    clips = job.training_set.clips
    figures: dict[str, Any] = {}
    for key, splits in (("folds", speaker_folds(clips)), ("unheard", leave_corpus_out(clips))):
        decisions: dict[int, ClipDecisions] = {}
        for split in splits:
            outputs = job.run(split, {"clean": features})["clean"]
            decisions |= decide_clips(bundle, features, outputs)
        result = summarize(decisions, job.truth, job.corpus, len(job.labels))
        figures[key] = {name: e["utterance"]["uar"] for name, e in result["corpora"].items()}
    return figures


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The rows as a Markdown table, UAR in per cent."""
    corpora = list(next(iter(rows.values()))["folds"])
    short = [*corpora, "mean", *(f"{c}, unheard" for c in corpora), "mean"]
    lines = ["| tried | " + " | ".join(short) + " |", "|---" * (len(short) + 1) + "|"]
    for name, row in rows.items():
        cells = []
        for key in ("folds", "unheard"):
            values = [row[key][c] for c in corpora]
            cells += [f"{100 * v:.1f}" for v in [*values, float(np.mean(values))]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
