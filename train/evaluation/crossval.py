"""Cross-validation by speakers and by corpora; every figure through the live decision code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle, Calibration, Decision
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.data.splits import Split
from speech_emotion.train.evaluation.calibration import calibrated
from speech_emotion.train.evaluation.metrics import figures
from speech_emotion.train.evaluation.offline_decisions import Heard, Judged, judge
from speech_emotion.train.model.fit import Material, Recipe, fit

log = logging.getLogger("train")

Outputs = dict[int, NDArray[np.float32]]
"""Clip → raw outputs of its speech windows, (windows, bundle.outputs)."""


def key_of(material: Material, recipe: Recipe, seed: int) -> str:
    """Names a run: the same spec, recipe and seed on the same clips go on where they stopped."""
    described = {
        "spec": dataclasses.asdict(material.spec),
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "clips": [c.name for c in material.clips],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def run_split(
    material: Material,
    split: Split,
    recipe: Recipe,
    heard: Mapping[str, Mapping[int, Heard]],
    work: Path,
    seed: int = 0,
    soft: Callable[[], NDArray[np.float32] | None] = lambda: None,
) -> dict[str, Outputs]:
    """Train on one side of a split and listen to the other, under each condition.

    Args:
        heard: condition → clip → what the live code heard of it; `clean` is as recorded.
        work: folder that keeps checkpoints and outputs, so that nothing is done twice.
        soft: gives a teacher's probabilities per clip, where the recipe distils.
    """
    folder = work / key_of(material, recipe, seed)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        condition: [i for i in split.test.tolist() if i in clips]
        for condition, clips in heard.items()
    }
    missing = [c for c in heard if not _path(folder, split, c).is_file()]
    if missing:
        fitted = fit(
            material,
            split.train,
            recipe,
            seed=seed,
            checkpoint=folder / f"{split.name}.npz",
            soft=soft(),
        )
        for condition in missing:
            clips = wanted[condition]
            sizes = [len(heard[condition][i].x) for i in clips]
            x = np.concatenate([heard[condition][i].x for i in clips]) if clips else None
            outputs = fitted.outputs(x) if x is not None else np.zeros((0, 1), np.float32)
            np.savez(_path(folder, split, condition), outputs=outputs, sizes=sizes, clips=clips)
    found = {}
    for condition in heard:
        with np.load(_path(folder, split, condition)) as arrays:
            ends = np.cumsum(arrays["sizes"])[:-1].astype(int)
            parts = np.split(arrays["outputs"], ends)
            found[condition] = dict(zip(arrays["clips"].tolist(), parts, strict=False))
    return found


def _path(folder: Path, split: Split, condition: str) -> Path:
    return folder / f"{split.name}.{condition}.outputs.npz"


def plain_bundle(
    spec: FeatureSpec, labels: tuple[str, ...], *, speech_output: bool = False
) -> Bundle:
    """A bundle of parameters alone, for `judge`: nothing calibrated, nothing uncertain."""
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
    )


def judge_all(bundle: Bundle, heard: Mapping[int, Heard], outputs: Outputs) -> dict[int, Judged]:
    """Every clip's decisions."""
    return {i: judge(heard[i], o, bundle) for i, o in outputs.items()}


def cross_calibrated(
    bundle: Bundle,
    folds: Sequence[Outputs],
    heard: Mapping[int, Heard],
    truth: NDArray[np.int64],
    corpus: NDArray[np.str_],
) -> dict[int, Judged]:
    """Every fold's clips judged with what the other folds taught."""
    judged: dict[int, Judged] = {}
    for k, fold in enumerate(folds):
        others = {i: o for j, other in enumerate(folds) if j != k for i, o in other.items()}
        judged |= judge_all(calibrate_on(bundle, others, heard, truth, corpus), heard, fold)
    return judged


def calibrate_on(
    bundle: Bundle,
    outputs: Outputs,
    heard: Mapping[int, Heard],
    truth: NDArray[np.int64],
    corpus: NDArray[np.str_],
) -> Bundle:
    """The bundle with temperatures and thresholds fitted on these clips."""
    clips = list(outputs)
    return calibrated(
        bundle, [heard[i] for i in clips], [outputs[i] for i in clips], truth[clips], corpus[clips]
    )


def summarize(
    judged: Mapping[int, Judged], truth: NDArray[np.int64], corpus: NDArray[np.str_], n: int
) -> dict[str, Any]:
    """`{"overall": E, "corpora": {NAME: E}}` of the judged clips."""

    def figures_of(clips: list[int]) -> dict[str, Any]:
        items = [judged[i] for i in clips]
        sizes = [len(j.smoothed) for j in items]
        return {
            "utterance": figures(
                truth[clips],
                np.array([j.probabilities for j in items]).reshape(-1, n),
                np.array([j.sure for j in items], bool),
                n,
            ),
            "window": figures(
                np.repeat(truth[clips], sizes),
                np.concatenate([j.smoothed for j in items]) if items else np.zeros((0, n)),
                np.concatenate([j.window_sure for j in items]) if items else np.zeros(0, bool),
                n,
                np.repeat(clips, sizes),
            ),
        }

    clips = sorted(judged)
    names = sorted(set(corpus[clips].tolist()))
    return {
        "overall": figures_of(clips),
        "corpora": {name: figures_of([i for i in clips if corpus[i] == name]) for name in names},
    }


def hear_subset(
    sounds: Mapping[int, Samples] | Sequence[Samples], chosen: NDArray[np.int64], spec: FeatureSpec
) -> dict[int, Heard]:
    """What the live code hears of the chosen clips."""
    from speech_emotion.train.evaluation.offline_decisions import hear_all

    return dict(zip(chosen.tolist(), hear_all([sounds[i] for i in chosen], spec), strict=True))
