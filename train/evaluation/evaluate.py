"""Evaluate a bundle on clips: figures and JSON, by the code that runs live."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.features.core import normalize
from speech_emotion.features.extractor import load_statistics
from speech_emotion.infer.model import Model
from speech_emotion.train.data.clips import Clip, Samples, check_sounds, mapping, select
from speech_emotion.train.data.dataset import load_all
from speech_emotion.train.data.stream_features import ClipFeatures, extract_clips
from speech_emotion.train.data.workers import progress
from speech_emotion.train.evaluation.metrics import figures, uar
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions, decide_clip


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Clips with their true labels and decisions.

    Attributes:
        labels: of the bundle.
        clips: the evaluated clips, with labels as emotions.
        truth: label index per clip, (clips,).
        decisions: per clip.
        dropped: `corpus:emotion` → clips not evaluated because the bundle has no such label.
    """

    labels: tuple[str, ...]
    clips: list[Clip]
    truth: NDArray[np.int64]
    decisions: list[ClipDecisions]
    dropped: dict[str, int]

    def figures(self) -> dict[str, Any]:
        """`{"overall": E, "corpora": {NAME: E}}`, `E = {"utterance": U, "window": U}`."""
        corpora = sorted({c.corpus for c in self.clips})
        return {
            "overall": self._figures_of(list(range(len(self.clips)))),
            "corpora": {
                name: self._figures_of([i for i, c in enumerate(self.clips) if c.corpus == name])
                for name in corpora
            },
        }

    def _figures_of(self, chosen: list[int]) -> dict[str, Any]:
        items, truth, n = [self.decisions[i] for i in chosen], self.truth[chosen], len(self.labels)
        sizes = [len(d.smoothed) for d in items]
        return {
            "utterance": figures(
                truth,
                np.array([d.probabilities for d in items]),
                np.array([d.sure for d in items]),
                n,
            ),
            "window": figures(
                np.repeat(truth, sizes),
                np.concatenate([d.smoothed for d in items]),
                np.concatenate([d.window_sure for d in items]),
                n,
                np.repeat(np.arange(len(items)), sizes),
            ),
        }

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Probabilities of the clips' utterances, (clips, labels)."""
        return np.array([d.probabilities for d in self.decisions])

    def uar_by(self, key: str) -> dict[str, float]:
        """Value → utterance UAR, by an attribute of the clips, e.g. `speaker` or `gender`."""
        predicted = self.probabilities.argmax(axis=1)
        values = np.array([getattr(c, key) for c in self.clips])
        return {
            str(v): uar(self.truth[values == v], predicted[values == v], len(self.labels))
            for v in sorted(set(values.tolist()))
            if v
        }


def evaluate(bundle_path: Path, clips: Sequence[Clip], runtime: str = "auto") -> Evaluation:
    """Run every clip through a bundle, each as a stream of its own.

    Args:
        runtime: `auto`, `litert`, `tflite` or `onnx`.

    Raises:
        UserError: the bundle or a clip is not valid, or no clip has a label of the bundle.
    """
    bundle = load_bundle(bundle_path)
    kept, dropped = select(clips, mapping(bundle.labels))
    if not kept:
        raise UserError(f"no clip has a label of {bundle.name}: {', '.join(bundle.labels)}")
    sounds = load_all(kept, bundle.spec.sample_rate)
    check_sounds(kept, sounds)
    return Evaluation(
        labels=bundle.labels,
        clips=kept,
        truth=np.array([bundle.labels.index(c.emotion) for c in kept]),
        decisions=decide_sounds(bundle, sounds, runtime),
        dropped=dropped,
    )


def decide_sounds(
    bundle: Bundle, sounds: Sequence[Samples], runtime: str = "auto"
) -> list[ClipDecisions]:
    """Decisions for every sound, by gate, feature core, TFLite model and decision code."""
    model = Model(bundle, runtime)
    statistics = load_statistics(bundle)
    features = extract_clips(sounds, bundle.spec)
    return [
        decide_clip(f, model_outputs(model, bundle, statistics, f), bundle)
        for f in progress(iter(features), len(features), "decisions")
    ]


def model_outputs(
    model: Model, bundle: Bundle, statistics: tuple[Samples, Samples], features: ClipFeatures
) -> NDArray[np.float32]:
    """The model's raw outputs, (speech windows, bundle.outputs)."""
    rows = [model.predict(normalize(x, *statistics, bundle.spec.eps)).copy() for x in features.x]
    return np.array(rows, np.float32).reshape(-1, bundle.outputs)


def table(result: dict[str, Any]) -> str:
    """The figures as a text table, in per cent."""
    lines = [
        f"{'':<12}{'level':<11}{'clips':>7}{'UAR':>7}{'95 % CI':>14}{'ECE':>7}{'coverage':>10}"
    ]
    for name, each in [*result["corpora"].items(), ("overall", result["overall"])]:
        for level, u in each.items():
            low, high = u["uar_ci"]
            lines.append(
                f"{name:<12}{level:<11}{u['n']:>7}{100 * u['uar']:>7.1f}"
                f"{f'{100 * low:.1f}-{100 * high:.1f}':>14}{100 * u['ece']:>7.1f}"
                f"{100 * u['coverage']:>10.1f}"
            )
    return "\n".join(lines)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write figures as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
