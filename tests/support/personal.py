"""Labels that people could have given, for a bundle whose probabilities are shifted to `sad`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.train.personal.fit import Examples, softmax

LABELS = ("angry", "happy", "neutral", "sad")


def examples(n: int, seed: int = 0, *, shift: float = 2.0, noise: float = 1.0) -> Examples:
    """Scores that know the label, shifted to the last label by `shift`."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, len(LABELS), n)
    scores = 1.5 * np.eye(len(LABELS))[truth] + chance.normal(0.0, noise, (n, len(LABELS)))
    scores[:, -1] += shift
    return Examples(scores - scores.mean(axis=1, keepdims=True), truth)


def lines(given: Examples, bundle: str, run: str = "r") -> list[dict[str, Any]]:
    """The examples as utterance messages of a bundle with that id, with the person's label."""
    return [
        {
            "stream": "main",
            "run": run,
            "seq": k,
            "emotion": LABELS[int(p.argmax())],
            "probabilities": dict(zip(LABELS, p.tolist(), strict=True)),
            "bundle": bundle,
            "label": LABELS[truth],
        }
        for k, (p, truth) in enumerate(zip(softmax(given.scores), given.truth, strict=True))
    ]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A file of labels."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def adapted(folder: Path, bundle: Path) -> Path:
    """A copy of a bundle in `folder` that was adapted to `examples`."""
    from speech_emotion.train.personal.adaptation import adapt_bundle

    file = write(folder / "labels.jsonl", lines(examples(80), load_bundle(bundle).id))
    done = adapt_bundle(bundle, file, folder / "adapted")
    assert done.replaced
    return done.bundle.path
