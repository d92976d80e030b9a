"""All clips with their rendered windows; a split selects from them by clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.train.data.clips import LABEL_SETS, Clip, mapping
from speech_emotion.train.data.dataset import Examples
from speech_emotion.train.model.recipe import Recipe

Index = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """Clips and everything that training reads about them.

    Attributes:
        spec: feature spec.
        clips: with the corpora's own emotions.
        examples: windows per rendering; the first rendering is the clean one.
        embeddings: the teacher's embedding per clip, (clips, size), whitened; None without a
            teacher.
        noise: windows without speech, (n, frames, dims), before normalization.
    """

    spec: FeatureSpec
    clips: Sequence[Clip]
    examples: Sequence[Examples]
    embeddings: NDArray[np.float32] | None = None
    noise: NDArray[np.float16] | None = None

    def label_names(self, recipe: Recipe) -> tuple[str, ...]:
        """The labels of the recipe's set that occur in the clips, sorted."""
        mapped = mapping(LABEL_SETS[recipe.labels])
        return tuple(sorted({mapped[c.emotion] for c in self.clips if c.emotion in mapped}))

    def truth(self, recipe: Recipe) -> Index:
        """Label index per clip, (clips,); -1 for an emotion outside the label set."""
        mapped, names = mapping(LABEL_SETS[recipe.labels]), self.label_names(recipe)
        return np.array(
            [names.index(mapped[c.emotion]) if c.emotion in mapped else -1 for c in self.clips]
        )
