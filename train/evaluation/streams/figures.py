"""UAR after some utterances of a stream, against the same utterances without a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.infer.baseline import BaselineState, Evidence, blend, observe
from speech_emotion.train.evaluation.metrics import RESAMPLES, ece, recall
from speech_emotion.train.evaluation.streams.scenarios import SCENARIOS, Stream
from speech_emotion.train.evaluation.streams.window_outputs import Index, Matrix, WindowOutputs

AFTER = (0, 1, 5, 20)
"""Numbers of utterances heard before the judged ones."""
HOP_S = 0.5
WINDOW_S = 3.0
WORST = 0.01
"""Largest loss of UAR against no baseline that is allowed."""


@dataclasses.dataclass(frozen=True)
class StreamStates:
    """The baselines of streams. They do not depend on most parameters, so they are kept.

    Attributes:
        streams: what is judged.
        states: per stream, the state after each number of utterances in `AFTER`.
    """

    outputs: WindowOutputs
    streams: list[Stream]
    states: list[list[BaselineState]]


def listen(outputs: WindowOutputs, streams: Iterable[Stream], to: Baseline) -> StreamStates:
    """The baselines of streams after some of their utterances, by the code that runs live."""
    clips = _evidence(outputs)
    streams = list(streams)
    states = []
    for stream in streams:
        state, kept = BaselineState.empty(len(outputs.labels)), []
        for number in range(max(AFTER) + 1):
            if number in AFTER:
                kept.append(state)
            if number < max(AFTER):
                state = observe(state, clips[stream.history[number]], to, ended=True)
        states.append(kept)
    return StreamStates(outputs, streams, states)


def _evidence(outputs: WindowOutputs) -> list[Evidence | None]:
    """What each clip counts for the baseline of its stream; None if it has no evidence.

    A clip is cut into windows that lie inside it. In a stream, windows also reach beyond both ends
    of an utterance, so that n + (window - hop) / hop windows have its speech. A clip counts as many
    seconds as such an utterance.
    """
    windows = np.bincount(outputs.clip, minlength=outputs.clips)
    weight = (HOP_S + (WINDOW_S - HOP_S) / windows)[outputs.clip] * outputs.evidence
    seconds = np.bincount(outputs.clip, weight, outputs.clips)
    relative, cold = (
        np.stack([np.bincount(outputs.clip, weight * x, outputs.clips) for x in table.T], axis=1)
        for table in (outputs.relative, np.exp(outputs.cold))
    )
    return [
        Evidence(relative[k] / seconds[k], cold[k] / seconds[k], seconds[k]) if seconds[k] else None
        for k in range(outputs.clips)
    ]


@dataclasses.dataclass(frozen=True)
class Judged:
    """Judged utterances of all streams after some utterances.

    Attributes:
        speaker, truth: per utterance, (utterances,).
        probabilities: mean over the windows of the utterance, (utterances, labels).
    """

    speaker: Index
    truth: Index
    probabilities: Matrix

    def tables(self) -> np.ndarray:
        """Counts by (speaker, true label, predicted label)."""
        n = self.probabilities.shape[1]
        found = np.zeros((int(self.speaker.max()) + 1, n, n), np.int64)
        np.add.at(found, (self.speaker, self.truth, self.probabilities.argmax(axis=1)), 1)
        return found


def judge(heard: StreamStates, after: int, temperature: float, to: Baseline) -> Judged:
    """The judged utterances of streams after `AFTER[after]` utterances.

    Args:
        temperature: of the scores without a baseline.
    """
    outputs, speakers, truth, found = heard.outputs, [], [], []
    neutral = outputs.labels.index("neutral")
    to = dataclasses.replace(to, prior=(0.0,) * len(outputs.labels), bias=tuple(outputs.bias))
    for stream, states in zip(heard.streams, heard.states, strict=True):
        rows = outputs.windows_of(stream.tests)
        cold, relative = outputs.cold[rows], outputs.relative[rows]
        scores, heat = blend(cold, relative, temperature, states[after], to, neutral)
        scores = scores / heat
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        raised /= raised.sum(axis=1, keepdims=True)
        found.append(_means(raised, outputs.clip[rows]))
        truth.append(outputs.truth[stream.tests])
        speakers.append(np.full(len(stream.tests), stream.speaker))
    return Judged(np.concatenate(speakers), np.concatenate(truth), np.concatenate(found))


def _means(values: Matrix, clip: Index) -> Matrix:
    """Mean per clip; the rows of a clip follow each other."""
    first = np.flatnonzero(np.diff(clip, prepend=-1))
    length = np.diff(np.append(first, len(clip)))
    mean: Matrix = np.add.reduceat(values, first, axis=0) / length[:, np.newaxis]
    return mean


def make_streams(outputs: WindowOutputs, scenario: str, seeds: Sequence[int]) -> list[Stream]:
    """All streams of a scenario; the same for the same seeds."""
    maker = SCENARIOS[scenario]
    return [stream for seed in seeds for stream in maker(outputs, np.random.default_rng([seed, 1]))]


def figures(
    corpora: Sequence[WindowOutputs], temperature: float, to: Baseline, seeds: Sequence[int]
) -> dict[str, Any]:
    """Scenario → corpus → figures after each number of utterances, and what the rule says."""
    found: dict[str, Any] = {"scenarios": {}}
    for scenario in SCENARIOS:
        rows = found["scenarios"][scenario] = {}
        for outputs in corpora:
            heard = listen(outputs, make_streams(outputs, scenario, seeds), to)
            if heard.streams:
                rows[outputs.name] = _row(heard, temperature, to)
    found["summary"] = summary(found["scenarios"])
    return found


def _row(heard: StreamStates, temperature: float, to: Baseline) -> dict[str, Any]:
    judged = [judge(heard, k, temperature, to) for k in range(len(AFTER))]
    tables = [one.tables() for one in judged]
    row: dict[str, Any] = {
        "speakers": len(np.unique(judged[0].speaker)),
        "judged": len(judged[0].truth),
        "after": {},
    }
    for number, one, table in zip(AFTER, judged, tables, strict=True):
        right = one.probabilities.argmax(axis=1) == one.truth
        row["after"][str(number)] = {
            "uar": uar_of(table.sum(axis=0)),
            "gain": uar_of(table.sum(axis=0)) - uar_of(tables[0].sum(axis=0)),
            "gain_ci": gain_interval(tables[0], table),
            "ece": ece(right, one.probabilities.max(axis=1)),
        }
    return row


def uar_of(table: np.ndarray) -> float:
    """UAR of a confusion matrix."""
    return float(recall(table).mean())


def gain_interval(cold: np.ndarray, warm: np.ndarray, seed: int = 0) -> list[float]:
    """95 % bootstrap interval over speakers of the difference of two UARs.

    Args:
        cold, warm: confusion matrices per speaker, (speakers, labels, labels).
    """
    rng = np.random.default_rng(seed)
    there = np.flatnonzero(cold.sum(axis=(1, 2)))
    drawn = []
    for _ in range(RESAMPLES):
        counts = np.bincount(rng.choice(there, len(there)), minlength=len(cold))
        drawn.append(uar_of(np.tensordot(counts, warm, 1)) - uar_of(np.tensordot(counts, cold, 1)))
    return [float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))]


def summary(scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scenario → number of utterances → mean over the corpora, and the worst of them."""
    found: dict[str, Any] = {}
    for scenario, rows in scenarios.items():
        found[scenario] = {}
        for number in map(str, AFTER):
            each = {name: row["after"][number] for name, row in rows.items()}
            worst = min(each, key=lambda name: each[name]["gain"])
            found[scenario][number] = {
                "uar": float(np.mean([one["uar"] for one in each.values()])),
                "gain": float(np.mean([one["gain"] for one in each.values()])),
                "ece": float(np.mean([one["ece"] for one in each.values()])),
                "worst": worst,
                "worst_gain": each[worst]["gain"],
                "kept": each[worst]["gain"] >= -WORST,
            }
    return found


def table(found: Mapping[str, Any]) -> str:
    """The summary as a Markdown table."""
    heads = [f"after {number}" for number in AFTER]
    lines = [
        f"| stream | {' | '.join(heads)} | worst corpus after {', '.join(map(str, AFTER[1:]))} |",
        f"|---|{'---|' * (len(AFTER) + 1)}",
    ]
    for scenario, rows in found["summary"].items():
        cells = [f"{100 * rows[str(number)]['uar']:.1f}" for number in AFTER]
        worst = [
            f"{100 * rows[str(number)]['worst_gain']:+.1f} {rows[str(number)]['worst']}"
            for number in AFTER[1:]
        ]
        lines.append(f"| {scenario} | {' | '.join(cells)} | {', '.join(worst)} |")
    return "\n".join(lines)
