"""How good is a bundle on a manifest: figures, JSON and a report, through the live code."""

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
from speech_emotion.train.data.dataset import load_all, progress
from speech_emotion.train.evaluation.metrics import figures, uar
from speech_emotion.train.evaluation.offline_decisions import Heard, Judged, hear_all, judge


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Judged clips with their truth.

    Attributes:
        labels: of the bundle.
        clips: evaluated ones, emotions mapped to labels.
        truth: label index per clip.
        judged: what the pipeline said of each.
        dropped: `corpus:emotion` → clips left out because the bundle has no such label.
    """

    labels: tuple[str, ...]
    clips: list[Clip]
    truth: NDArray[np.int64]
    judged: list[Judged]
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
        items, truth, n = [self.judged[i] for i in chosen], self.truth[chosen], len(self.labels)
        sizes = [len(j.smoothed) for j in items]
        return {
            "utterance": figures(
                truth,
                np.array([j.probabilities for j in items]),
                np.array([j.sure for j in items]),
                n,
            ),
            "window": figures(
                np.repeat(truth, sizes),
                np.concatenate([j.smoothed for j in items]),
                np.concatenate([j.window_sure for j in items]),
                n,
                np.repeat(np.arange(len(items)), sizes),
            ),
        }

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Of every clip's utterances, (clips, labels)."""
        return np.array([j.probabilities for j in self.judged])

    def uar_by(self, key: str) -> dict[str, float]:
        """Utterance UAR by an attribute of the clips, e.g. `speaker` or `gender`."""
        said = self.probabilities.argmax(axis=1)
        values = np.array([getattr(c, key) for c in self.clips])
        return {
            str(v): uar(self.truth[values == v], said[values == v], len(self.labels))
            for v in sorted(set(values.tolist()))
            if v
        }


def evaluate(bundle_path: Path, clips: Sequence[Clip], runtime: str = "auto") -> Evaluation:
    """Run every clip through the bundle as the live pipeline would.

    Raises:
        UserError: the bundle or a clip is bad, or no clip has one of the bundle's labels.
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
        judged=judge_sounds(bundle, sounds, runtime),
        dropped=dropped,
    )


def judge_sounds(bundle: Bundle, sounds: Sequence[Samples], runtime: str = "auto") -> list[Judged]:
    """Gate, features, TFLite model and decisions of every sound, each a stream of its own."""
    model = Model(bundle, runtime)
    statistics = load_statistics(bundle)
    heard = hear_all(sounds, bundle.spec)
    return [
        judge(h, outputs(model, bundle, statistics, h), bundle)
        for h in progress(iter(heard), len(heard), "judging")
    ]


def outputs(
    model: Model, bundle: Bundle, statistics: tuple[Samples, Samples], heard: Heard
) -> NDArray[np.float32]:
    """The model's raw output for each speech window, (windows, bundle.outputs)."""
    rows = [model.predict(normalize(x, *statistics, bundle.spec.eps)).copy() for x in heard.x]
    return np.array(rows, np.float32).reshape(-1, bundle.outputs)


def table(result: dict[str, Any]) -> str:
    """The figures as a table for the terminal, in per cent."""
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
