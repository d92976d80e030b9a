"""What a recipe file and a corpus become before training: clips, examples, splits, figures."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec, read_toml
from speech_emotion.common.errors import UserError
from speech_emotion.train.data import nonspeech
from speech_emotion.train.data.clips import Clip, Samples, check_sounds
from speech_emotion.train.data.dataset import load_all, render
from speech_emotion.train.data.splits import Split
from speech_emotion.train.evaluation.crossval import (
    Outputs,
    hear_subset,
    key_of,
    plain_bundle,
    run_split,
)
from speech_emotion.train.evaluation.offline_decisions import Heard
from speech_emotion.train.model import ensemble, teacher
from speech_emotion.train.model.fit import Fitted, Material, Recipe, fit
from speech_emotion.train.model.network import Network

log = logging.getLogger("train")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe file: what features, what network, how trained, under which licence."""

    spec: FeatureSpec
    recipe: Recipe
    licence: str


def load_plan(path: Path) -> Plan:
    """Read a recipe: `labels`, `licence`, [features], [recipe] and [network].

    Raises:
        UserError: the file is missing, or has an unknown key or a value of the wrong type.
    """
    table = read_toml(path)
    if unknown := sorted(set(table) - {"labels", "licence", "features", "recipe", "network"}):
        raise UserError(f"{path}: {unknown[0]} is not a key of a recipe")
    network = _fields(Network, table.get("network", {}), f"{path}: network")
    values = _fields(Recipe, table.get("recipe", {}), f"{path}: recipe")
    recipe = Recipe(**{**values, "network": Network(**network)})
    labels = table.get("labels", recipe.labels)
    spec = FeatureSpec.from_table(table.get("features", {}), str(path))
    return Plan(spec, dataclasses.replace(recipe, labels=labels), table.get("licence", ""))


def _fields(
    cls: type[Recipe] | type[Network], table: Mapping[str, Any], where: str
) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in defaults or key == "network":
            raise UserError(f"{where}.{key} is not a key; allowed: {', '.join(defaults)}")
        wanted = type(defaults[key])
        found = tuple(value) if wanted is tuple and isinstance(value, list) else value
        if wanted is float and type(found) is int:
            found = float(found)
        if type(found) is not wanted:
            raise UserError(f"{where}.{key} = {value!r} must be {wanted.__name__}")
        values[key] = found
    return values


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that training and cross-validation of one plan need.

    Attributes:
        plan: the recipe file.
        material: clips and their examples.
        sounds: samples of every clip.
        truth: label index per clip, -1 for other emotions.
        corpus, speaker: per clip.
        work: folder of caches, checkpoints and outputs.
        seed: of everything random.
    """

    plan: Plan
    material: Material
    sounds: Sequence[Samples]
    work: Path
    seed: int

    @property
    def truth(self) -> NDArray[np.int64]:
        return self.material.truth(self.plan.recipe)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.material.label_names(self.plan.recipe)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Clips whose emotion is a label."""
        return np.flatnonzero(self.truth >= 0)

    @property
    def corpus(self) -> NDArray[np.str_]:
        return np.array([c.corpus for c in self.material.clips])

    @property
    def speaker(self) -> NDArray[np.str_]:
        return np.array([c.speaker for c in self.material.clips])

    def soft(self, name: str, train: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """The teacher's probabilities for a split's training clips, where the recipe distils."""
        recipe, embeddings = self.plan.recipe, self.material.embeddings
        if recipe.distil and recipe.ensemble:
            folder = self.work / key_of(self.material, recipe, self.seed)
            return ensemble.soft_labels(self.material, name, train, recipe, self.seed, folder)
        if not recipe.distil or embeddings is None:
            return None
        return teacher.soft_labels(
            embeddings, self.truth, self.corpus, self.speaker, train, len(self.labels)
        )

    def run(
        self, split: Split, heard: Mapping[str, Mapping[int, Heard]], seed: int | None = None
    ) -> dict[str, Outputs]:
        """Train and listen; see `run_split`."""
        return run_split(
            self.material,
            split,
            self.plan.recipe,
            heard,
            self.work,
            self.seed if seed is None else seed,
            lambda: self.soft(split.name, split.train),
        )

    def model(self, split: Split) -> Fitted:
        """The model of one side of a split, trained or taken from its checkpoint."""
        folder = self.work / key_of(self.material, self.plan.recipe, self.seed)
        return fit(
            self.material,
            split.train,
            self.plan.recipe,
            seed=self.seed,
            checkpoint=folder / f"{split.name}.npz",
            soft=self.soft(split.name, split.train),
        )

    def hear(self, clips: NDArray[np.int64] | None = None) -> dict[int, Heard]:
        """What the live code hears of the labelled clips, as they were recorded."""
        chosen = self.labelled if clips is None else clips
        return hear_subset(self.sounds, chosen, self.plan.spec)


def prepare(
    plan: Plan,
    clips: Sequence[Clip],
    work: Path,
    *,
    seed: int = 0,
    workers: int = 2,
    teacher_model: Path | None = None,
    noise_files: Path | None = None,
    sounds: Sequence[Samples] | None = None,
) -> Job:
    """Read, check and render all clips.

    Args:
        teacher_model: see `train.teacher`; needed where the recipe has a teacher.
        noise_files: folder of real sounds without speech, where the recipe has noise.
        sounds: the clips' samples, where they have been read and checked before.

    Raises:
        UserError: a bad clip, a duplicate, or a part of the recipe that has no data.
    """
    recipe, rate = plan.recipe, plan.spec.sample_rate
    if sounds is None:
        sounds = load_all(clips, rate, workers)
        check_sounds(clips, sounds)
    cache = work / "cache"
    examples = [
        render(clips, sounds, plan.spec, copy, cache, seed=seed, workers=workers)
        for copy in range(recipe.copies + 1)
    ]
    embeddings = None
    if recipe.teacher or (recipe.distil and not recipe.ensemble):
        if teacher_model is None:
            raise UserError("the recipe has a teacher: name its folder with --teacher DIR")
        embeddings = teacher.embed(clips, sounds, teacher_model, cache)
    noise = None
    if recipe.noise:
        files = nonspeech.sound_files(noise_files) if noise_files else []
        noise = nonspeech.examples(
            plan.spec, recipe.noise_minutes, seed + 100, files, cache, workers
        )
    return Job(plan, Material(plan.spec, clips, examples, embeddings, noise), sounds, work, seed)


def blank_bundle(job: Job) -> Bundle:
    """An uncalibrated bundle of the job's spec and labels, for `judge`."""
    return plain_bundle(job.plan.spec, job.labels, speech_output=job.plan.recipe.speech_head > 0)
