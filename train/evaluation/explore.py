"""What was tried: one row per idea, each at speaker-independent folds and corpora left out.

The rows share log-mel features and a short training without augmented copies, so that they can
be compared with each other and run in an hour on two cores; the shipped recipes train longer.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from speech_emotion.train.data.splits import leave_corpus_out, speaker_folds
from speech_emotion.train.evaluation.crossval import judge_all, summarize
from speech_emotion.train.evaluation.offline_decisions import Heard, Judged
from speech_emotion.train.model.fit import Recipe
from speech_emotion.train.model.network import Network
from speech_emotion.train.model.training_job import Job, Plan, blank_bundle

log = logging.getLogger("train")

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
"""Name → what differs from the base, in the words of the spec, the recipe and the network."""


def plan_of(base: Plan, changes: Mapping[str, Any]) -> Plan:
    """The base plan with a row's changes."""

    def pick(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        return {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}

    every = {**BASE, **changes}
    spec = dataclasses.replace(base.spec, **pick(type(base.spec), every))
    network = Network(**pick(Network, every))
    recipe = Recipe(**{**pick(Recipe, every), "labels": base.recipe.labels, "network": network})
    return dataclasses.replace(base, spec=spec, recipe=recipe)


def run_row(job: Job, heard: Mapping[int, Heard]) -> dict[str, Any]:
    """UAR per corpus on new speakers and on corpora never heard, utterance level."""
    plain = blank_bundle(job)
    clips = job.material.clips
    found: dict[str, Any] = {}
    for key, splits in (("folds", speaker_folds(clips)), ("unheard", leave_corpus_out(clips))):
        judged: dict[int, Judged] = {}
        for split in splits:
            judged |= judge_all(plain, heard, job.run(split, {"clean": heard})["clean"])
        result = summarize(judged, job.truth, job.corpus, len(job.labels))
        found[key] = {name: e["utterance"]["uar"] for name, e in result["corpora"].items()}
    return found


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The rows as Markdown, UAR in per cent."""
    corpora = list(next(iter(rows.values()))["folds"])
    short = [*(f"{c}" for c in corpora), "mean", *(f"{c}, unheard" for c in corpora), "mean"]
    lines = ["| tried | " + " | ".join(short) + " |", "|---" * (len(short) + 1) + "|"]
    for name, row in rows.items():
        cells = []
        for key in ("folds", "unheard"):
            values = [row[key][c] for c in corpora]
            cells += [f"{100 * v:.1f}" for v in [*values, float(np.mean(values))]]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
