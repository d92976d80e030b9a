"""Write the outputs for clips held out to npz files, by which a baseline is chosen and measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speech_emotion.common.errors import UserError
from speech_emotion.train.evaluation.held_out import HeldOutOutputs
from speech_emotion.train.model.whisper.heads import LABELS, HeadTrainingSet


def write_outputs(path: Path, training_set: HeadTrainingSet, held_out: HeldOutOutputs) -> None:
    """Write the windows of the clips with their heads' outputs, prior and bias per window.

    Raises:
        UserError: the heads have no relative scores.
    """
    sizes = [len(o) for o in held_out.outputs]
    owner = np.repeat(held_out.clips, sizes)
    outputs = np.concatenate(held_out.outputs)
    n = len(LABELS)
    relative = [r for r in held_out.relative if r is not None]
    if len(relative) < len(sizes):
        raise UserError(f"{path}: the heads have no relative scores; set relative in the recipe")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        labels=np.array(LABELS),
        corpus=training_set.corpus[owner],
        speaker=training_set.speaker[owner],
        name=np.array([c.name for c in training_set.clips])[owner],
        clip=owner.astype(np.int32),
        label=training_set.truth[owner].astype(np.int8),
        window=np.concatenate([np.arange(size) for size in sizes]).astype(np.int16),
        cold=outputs[:, :n],
        speech=outputs[:, n],
        distance=outputs[:, n + 1],
        relative=outputs[:, n + 2 :],
        prior=np.repeat([r.prior for r in relative], sizes, axis=0),
        bias=np.repeat([r.bias for r in relative], sizes, axis=0),
    )
