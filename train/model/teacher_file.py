"""A file with a teacher's probabilities for the training clips of every split.

`train whisper teach` writes it, `train fit --teacher FILE` reads it. The teacher of a split was
trained on the split's training clips only, so a model that it has taught can be measured on the
other clips.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError

Matrix = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class TeacherFile:
    """A teacher's probabilities.

    Attributes:
        path: of the file, for messages.
        names: of the clips.
        labels: in the order of the probabilities.
        splits: name of a split → probabilities (clips, labels); NaN for clips outside its
            training clips.
    """

    path: Path
    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: Mapping[str, Matrix]

    def soft_labels(
        self,
        split: str,
        names: Sequence[str],
        labels: Sequence[str],
        labelled: NDArray[np.int64],
        train: NDArray[np.int64],
    ) -> Matrix:
        """The probabilities for the training clips of a split, (clips, labels); NaN for others.

        Args:
            split: name of the split.
            names: of the clips.
            labels: of the model that is taught.
            labelled: indices of the clips that have a label.
            train: indices of the split's training clips.

        Raises:
            UserError: the file has other labels or splits, lacks a training clip, or its teacher
                was trained on a clip that is not a training clip.
        """
        if tuple(labels) != self.labels:
            raise UserError(
                f"{self.path}: its labels are {', '.join(self.labels)}, "
                f"those of the recipe {', '.join(labels)}"
            )
        if split not in self.splits:
            raise UserError(
                f"{self.path}: has no split {split}, only {', '.join(self.splits)}; make it again "
                "with the same clips and --folds"
            )
        row = {name: i for i, name in enumerate(self.names)}
        if missing := [names[i] for i in labelled if names[i] not in row]:
            raise UserError(f"{self.path}: lacks the clip {missing[0]}; make it of the same clips")
        found = np.full((len(names), len(labels)), np.nan, np.float32)
        found[labelled] = self.splits[split][[row[names[i]] for i in labelled]]
        known = np.flatnonzero(np.isfinite(found).all(axis=1))
        if len(wrong := np.setxor1d(known, np.intersect1d(labelled, train))):
            raise UserError(
                f"{self.path}: split {split}: {names[wrong[0]]} is a training clip of the teacher "
                "or of the recipe, but not of both; make it of the same clips and --folds"
            )
        return found


def write_teacher_file(
    path: Path, names: Sequence[str], labels: Sequence[str], splits: Mapping[str, Matrix]
) -> None:
    """Write the probabilities (clips, labels) of each split to an npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"names": np.array(names), "labels": np.array(labels)}
    arrays |= {f"split {name}": rows for name, rows in splits.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_teacher_file(path: Path) -> TeacherFile:
    """Read a file of `write_teacher_file`.

    Raises:
        UserError: the file is missing, or is not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return TeacherFile(
                path,
                tuple(arrays["names"].tolist()),
                tuple(arrays["labels"].tolist()),
                {k.removeprefix("split "): arrays[k] for k in arrays if k.startswith("split ")},
            )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `train whisper teach` writes one") from None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is no file of `train whisper teach` ({error})") from None
