"""One recipe with its clips, rendered and ready for training and cross-validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.train.data import nonspeech
from speech_emotion.train.data.clips import Clip, Samples, check_sounds
from speech_emotion.train.data.dataset import load_all, render
from speech_emotion.train.data.splits import Split
from speech_emotion.train.data.stream_features import ClipFeatures, extract_chosen
from speech_emotion.train.model import ensemble, teacher
from speech_emotion.train.model.fit import TrainedModel, fit
from speech_emotion.train.model.fold_outputs import Outputs, run_key, run_split
from speech_emotion.train.model.recipe import Plan
from speech_emotion.train.model.teacher_file import TeacherFile, read_teacher_file
from speech_emotion.train.model.training_set import TrainingSet


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """Everything that training and cross-validation of one recipe read.

    Attributes:
        plan: the recipe file.
        training_set: clips and their rendered windows.
        sounds: samples of every clip, mono, at the rate of the spec.
        work: folder of caches, checkpoints and outputs.
        seed: of everything random.
        taught: probabilities of a teacher; None without, and if Whisper is the teacher.
    """

    plan: Plan
    training_set: TrainingSet
    sounds: Sequence[Samples]
    work: Path
    seed: int
    taught: TeacherFile | None = None

    @property
    def truth(self) -> NDArray[np.int64]:
        """Label index per clip, (clips,); -1 for an emotion outside the label set."""
        return self.training_set.truth(self.plan.recipe)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, sorted."""
        return self.training_set.label_names(self.plan.recipe)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Indices of the clips whose emotion is a label."""
        return np.flatnonzero(self.truth >= 0)

    @property
    def corpus(self) -> NDArray[np.str_]:
        """Corpus name per clip, (clips,)."""
        return np.array([c.corpus for c in self.training_set.clips])

    @property
    def speaker(self) -> NDArray[np.str_]:
        """Speaker per clip, (clips,)."""
        return np.array([c.speaker for c in self.training_set.clips])

    def soft(self, name: str, train: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """The teacher's probabilities per training clip, (clips, labels); None without one.

        Args:
            name: of the split.
            train: indices of the training clips.
        """
        recipe, embeddings = self.plan.recipe, self.training_set.embeddings
        if recipe.distil and recipe.ensemble:
            folder = self.work / run_key(self.training_set, recipe, self.seed)
            return ensemble.soft_labels(self.training_set, name, train, recipe, self.seed, folder)
        if recipe.distil and self.taught is not None:
            names = [c.name for c in self.training_set.clips]
            return self.taught.soft_labels(name, names, self.labels, self.labelled, train)
        if not recipe.distil or embeddings is None:
            return None
        return teacher.soft_labels(
            embeddings, self.truth, self.corpus, self.speaker, train, len(self.labels)
        )

    def run(
        self,
        split: Split,
        features: Mapping[str, Mapping[int, ClipFeatures]],
        seed: int | None = None,
    ) -> dict[str, Outputs]:
        """Raw outputs for the test clips of a split; see `run_split`."""
        return run_split(
            self.training_set,
            split,
            self.plan.recipe,
            features,
            self.work,
            self.seed if seed is None else seed,
            lambda: self.soft(split.name, split.train),
        )

    def model(self, split: Split) -> TrainedModel:
        """The model of a split's training clips, trained or read from its checkpoint."""
        folder = self.work / run_key(self.training_set, self.plan.recipe, self.seed)
        return fit(
            self.training_set,
            split.train,
            self.plan.recipe,
            seed=self.seed,
            checkpoint=folder / f"{split.name}.npz",
            soft=self.soft(split.name, split.train),
        )

    def clip_features(self, clips: NDArray[np.int64] | None = None) -> dict[int, ClipFeatures]:
        """Clip index → features of the unchanged clips; of the labelled ones by default."""
        chosen = self.labelled if clips is None else clips
        return extract_chosen(self.sounds, chosen, self.plan.spec)


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
) -> TrainingJob:
    """Read, check and render all clips.

    Args:
        work: folder of caches, checkpoints and outputs.
        workers: number of worker processes.
        teacher_model: folder of a Whisper model, see `train.model.teacher`, or a file of
            `train.model.teacher_file`; a recipe with a teacher needs it.
        noise_files: folder of recorded sounds without speech, for a recipe with noise.
        sounds: the clips' samples, if they have been read and checked before.

    Raises:
        UserError: a bad clip, a duplicate, or a part of the recipe that has no data.
    """
    recipe, rate = plan.recipe, plan.spec.sample_rate
    whisper, taught = None, None
    if recipe.teacher or (recipe.distil and not recipe.ensemble):
        if teacher_model is None:
            raise UserError("the recipe has a teacher: name it with --teacher PATH")
        if teacher_model.suffix != ".npz":
            whisper = teacher_model
        elif recipe.teacher:
            raise UserError(f"{teacher_model}: has no embeddings; remove recipe.teacher")
        else:
            taught = read_teacher_file(teacher_model)
    if sounds is None:
        sounds = load_all(clips, rate, workers)
        check_sounds(clips, sounds)
    cache = work / "cache"
    examples = [
        render(clips, sounds, plan.spec, copy, cache, seed=seed, workers=workers)
        for copy in range(recipe.copies + 1)
    ]
    embeddings = None
    if whisper is not None:
        embeddings = teacher.embed(clips, sounds, whisper, cache)
    noise = None
    if recipe.noise:
        files = nonspeech.sound_files(noise_files) if noise_files else []
        noise = nonspeech.examples(
            plan.spec, recipe.noise_minutes, seed + 100, files, cache, workers
        )
    training_set = TrainingSet(plan.spec, clips, examples, embeddings, noise)
    return TrainingJob(plan, training_set, sounds, work, seed, taught)
