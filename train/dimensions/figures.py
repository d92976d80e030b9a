"""Figures of a head on speakers and corpora that it was not trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.train.dimensions.head import LinearHead, PartSums, fit
from speech_emotion.train.dimensions.targets import LEVELS, Targets
from speech_emotion.train.evaluation.metrics import ccc, ccc_interval
from speech_emotion.train.model.whisper.discriminant import per_clip
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics

Vector = NDArray[np.float64]
RENDERINGS = ("clean", "simulated")


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Values of clips by heads that have not heard them, per rendering: (clips,), NaN without."""

    name: str
    values: Sequence[Vector]


@dataclasses.dataclass(frozen=True)
class Study:
    """Clips, their windows, and the sums that heads are fitted from.

    Attributes:
        renderings: clean, then simulated recordings.
        sums: of the corpora to train on; the other corpora are for evaluation only.
        fold: of each clip's speaker, -1 in a corpus for evaluation only, (clips,).
    """

    targets: Targets
    renderings: Sequence[WindowStatistics]
    sums: PartSums
    fold: NDArray[np.int64]

    @property
    def corpora(self) -> list[str]:
        """Those to train on, sorted."""
        return sorted({corpus for corpus, _ in self.sums})

    def fit(self, corpora: Sequence[str], without: int | None = None) -> LinearHead:
        """A head for some corpora, without the speakers of a fold."""
        folds = sorted({k for _, k in self.sums} - {without})
        return fit([[self.sums[corpus, k] for k in folds] for corpus in corpora])

    def folds(self, corpora: Sequence[str]) -> tuple[dict[int, LinearHead], float]:
        """A head without each fold, and the factor that gives new speakers the targets' spread."""
        heads = {k: self.fit(corpora, without=k) for k in sorted({k for _, k in self.sums})}
        values = self.values(self.renderings[0], self.fold, heads)
        ratios = []
        for corpus in corpora:
            use = (self.targets.corpus == corpus) & ~np.isnan(self.targets.value + values)
            ratios.append(self.targets.value[use].std() / max(values[use].std(), 1e-6))
        return heads, float(np.mean(ratios))

    def values(
        self, rendering: WindowStatistics, part: NDArray[Any], heads: Mapping[Any, LinearHead]
    ) -> Vector:
        """Mean over each clip's windows of the values of the head of its part, (clips,).

        NaN for clips of a part without a head.
        """
        windows = np.full(len(rendering.clip), np.nan)
        for key, head in heads.items():
            rows = np.flatnonzero((part == key)[rendering.clip])
            windows[rows] = head.values(rendering.x[rows])
        return per_clip(windows[:, np.newaxis], rendering.clip, len(part))[:, 0]

    def final(self) -> LinearHead:
        """The head of all clips."""
        _, factor = self.folds(self.corpora)
        return self.fit(self.corpora).stretched(factor)

    def held_out(self) -> list[HeldOut]:
        """The values by heads without the clip's speaker, and by heads without its corpus."""
        heads, factor = self.folds(self.corpora)
        by_fold = {k: head.stretched(factor) for k, head in heads.items()}
        found = [HeldOut("speakers", self._limited(self.fold, by_fold))]
        by_corpus = {}
        for corpus in sorted(set(self.targets.corpus.tolist())):
            others = [name for name in self.corpora if name != corpus]
            if others:
                _, factor = self.folds(others)
                by_corpus[corpus] = self.fit(others).stretched(factor)
        if by_corpus:
            found.append(HeldOut("corpus", self._limited(self.targets.corpus, by_corpus)))
        return found

    def _limited(self, part: NDArray[Any], heads: Mapping[Any, LinearHead]) -> list[Vector]:
        return [np.clip(self.values(r, part, heads), 0.0, 1.0) for r in self.renderings]


def table(targets: Targets, outputs: Sequence[HeldOut]) -> list[dict[str, Any]]:
    """A row for each corpus and each way of holding out that it has values of.

    `ccc`, with its 95 % interval `ccc_ci` by a bootstrap over speakers; `ccc_simulated`;
    `correlation`; `mean` of the values and `target_mean`; `within`: the mean over the acted
    emotions of the correlation within one; `ordered`: of two clips of one speaker with one emotion,
    of the highest and the lowest level, how often the higher value is that of the higher level.
    """
    rows = []
    for each in outputs:
        for corpus in sorted(set(targets.corpus.tolist())):
            use = (targets.corpus == corpus) & ~np.isnan(targets.value) & ~np.isnan(each.values[0])
            if not use.any():
                continue
            truth, value, speaker = targets.value[use], each.values[0][use], targets.speaker[use]
            row: dict[str, Any] = {
                "held_out": each.name,
                "corpus": corpus,
                "clips": len(truth),
                "speakers": len(set(speaker.tolist())),
                "ccc": ccc(truth, value),
                "ccc_ci": list(ccc_interval(truth, value, speaker)),
                "correlation": correlation(truth, value),
                "mean": float(value.mean()),
                "target_mean": float(truth.mean()),
                "within": within(truth, value, targets.emotion[use]),
                "ordered": ordered(targets, each.values[0], corpus),
            }
            for name, other in list(zip(RENDERINGS, each.values, strict=False))[1:]:
                known = use & ~np.isnan(other)
                row[f"ccc_{name}"] = ccc(targets.value[known], other[known])
            rows.append(row)
    return rows


def correlation(truth: Vector, value: Vector) -> float:
    """Pearson's correlation; NaN where one of both is constant."""
    if np.ptp(truth) == 0 or np.ptp(value) == 0:
        return float("nan")
    return float(np.corrcoef(truth, value)[0, 1])


def within(truth: Vector, value: Vector, emotion: NDArray[np.str_]) -> float:
    """Mean over the emotions of the correlation of the clips of one emotion."""
    found = [correlation(truth[emotion == e], value[emotion == e]) for e in np.unique(emotion)]
    known = [r for r in found if not np.isnan(r)]
    return float(np.mean(known)) if known else float("nan")


def ordered(targets: Targets, value: Vector, corpus: str) -> float:
    """Share of pairs in the order of their levels; pairs of one speaker with one emotion."""
    low, high = min(LEVELS[corpus].values()), max(LEVELS[corpus].values())
    chosen = np.flatnonzero(
        (targets.corpus == corpus) & ~np.isnan(targets.level) & ~np.isnan(value)
    )
    groups: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for i in chosen:
        key = str(targets.speaker[i]), str(targets.emotion[i])
        pair = groups.setdefault(key, ([], []))
        if targets.level[i] in (low, high):
            pair[int(targets.level[i] == high)].append(float(value[i]))
    found = [a < b for lower, higher in groups.values() for a in lower for b in higher]
    return float(np.mean(found)) if found else float("nan")


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [
        "| corpus | left out | clips | speakers | CCC | simulated recordings | correlation "
        "| within one emotion | higher level, higher value |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ccc_ci"]
        what = "its speaker" if row["held_out"] == "speakers" else "the corpus"
        simulated = f"{row['ccc_simulated']:.2f}" if "ccc_simulated" in row else ""
        lines.append(
            f"| {row['corpus']} | {what} | {row['clips']} | {row['speakers']} | "
            f"{row['ccc']:.2f} ({low:.2f}–{high:.2f}) | {simulated} | {row['correlation']:.2f} | "
            f"{row['within']:.2f} | {100 * row['ordered']:.0f} % |"
        )
    return "\n".join(lines)
