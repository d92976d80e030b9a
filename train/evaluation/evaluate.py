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
from speech_emotion.train.evaluation.metrics import ccc, ccc_interval, figures, uar
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
        rated: clips with a rating of a dimension that the bundle has, with any emotion, and the
            values that were published for them.
    """

    labels: tuple[str, ...]
    clips: list[Clip]
    truth: NDArray[np.int64]
    decisions: list[ClipDecisions]
    dropped: dict[str, int]
    rated: list[tuple[Clip, dict[str, float]]] = dataclasses.field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """`{"overall": E, "corpora": {NAME: E}}`, `E = {"utterance": U, "window": U}`.

        With `"dimensions": {CORPUS: {DIMENSION: {"ccc", "ccc_ci", "n"}}}` where clips have ratings.
        """
        corpora = sorted({c.corpus for c in self.clips})
        return {
            **({"dimensions": self._dimension_figures()} if self.rated else {}),
            **({"overall": self._figures_of(list(range(len(self.clips))))} if self.clips else {}),
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

    def _dimension_figures(self) -> dict[str, Any]:
        pairs: dict[str, dict[str, list[tuple[float, float, str]]]] = {}
        for clip, heard in self.rated:
            for name, value in clip.dimensions:
                if name in heard:
                    of_corpus = pairs.setdefault(clip.corpus, {}).setdefault(name, [])
                    of_corpus.append((value, heard[name], clip.speaker))
        return {
            corpus: {name: _agreement(each) for name, each in found.items()}
            for corpus, found in sorted(pairs.items())
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


def _agreement(pairs: Sequence[tuple[float, float, str]]) -> dict[str, Any]:
    """CCC of rated and published values, and its interval by a bootstrap over speakers."""
    rated, heard = (np.array([pair[at] for pair in pairs], np.float64) for at in (0, 1))
    interval = list(ccc_interval(rated, heard, np.array([speaker for _, _, speaker in pairs])))
    return {"ccc": ccc(rated, heard), "ccc_ci": interval, "n": len(pairs)}


def evaluate(bundle_path: Path, clips: Sequence[Clip], runtime: str = "auto") -> Evaluation:
    """Run every clip through a bundle, each as a stream of its own.

    Args:
        runtime: `auto`, `litert`, `tflite` or `onnx`.

    Raises:
        UserError: the bundle or a clip is not valid, or no clip has a label of the bundle.
    """
    bundle = load_bundle(bundle_path)
    labels = mapping(bundle.labels)
    kept, dropped = select(clips, labels)
    others = [
        clip
        for clip in clips
        if clip.emotion not in labels
        and {name for name, _ in clip.dimensions} & set(bundle.dimensions)
    ]
    if not kept and not others:
        names = ", ".join((*bundle.labels, *bundle.dimensions))
        raise UserError(f"no clip has a label or a rating that {bundle.name} gives: {names}")
    sounds = load_all([*kept, *others], bundle.spec.sample_rate)
    check_sounds([*kept, *others], sounds)
    decisions = decide_sounds(bundle, sounds, runtime)
    rated = [
        (clip, each.dimensions)
        for clip, each in zip([*kept, *others], decisions, strict=True)
        if clip.dimensions and each.dimensions
    ]
    return Evaluation(
        labels=bundle.labels,
        clips=kept,
        truth=np.array([bundle.labels.index(c.emotion) for c in kept]),
        decisions=decisions[: len(kept)],
        dropped=dropped,
        rated=rated,
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
    lines = _dimension_lines(result)
    if "overall" not in result:
        return "\n".join(lines)
    lines += [
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


def _dimension_lines(result: dict[str, Any]) -> list[str]:
    lines = []
    for corpus, found in result.get("dimensions", {}).items():
        for name, each in found.items():
            low, high = each["ccc_ci"]
            agreement = f"CCC {each['ccc']:.2f} ({low:.2f} to {high:.2f})"
            lines.append(f"{corpus:<12}{name:<11}{each['n']:>7} {agreement}")
    return lines


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write figures as JSON.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
