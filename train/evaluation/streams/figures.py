"""UAR after some utterances of a stream, against the same utterances without a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.infer.baseline import BaselineState, Evidence, observe, trust_in
from speech_emotion.train.evaluation.metrics import RESAMPLES, ece
from speech_emotion.train.evaluation.streams.scenarios import SCENARIOS, Stream
from speech_emotion.train.evaluation.streams.window_outputs import Index, Matrix, WindowOutputs

AFTER = (0, 1, 5, 20)
"""Numbers of utterances heard before the judged ones."""
HOP_S = 0.5
WINDOW_S = 3.0


@dataclasses.dataclass(frozen=True)
class StreamStates:
    """Streams of one scenario and corpus, and what was heard of them.

    They depend on no parameter but `memory_s`, so they are kept while others are chosen.

    Attributes:
        states: per number of utterances in `AFTER`, the baseline of each stream.
        stream: stream of each judged clip, (judged,).
        clips: judged clips, (judged,).
        speaker: speaker of each judged clip, (judged,).
        rows: their windows, clip by clip, (windows,).
        first: position in `rows` of each clip's first window, (judged,).
    """

    outputs: WindowOutputs
    states: list[list[BaselineState]]
    stream: Index
    clips: Index
    speaker: Index
    rows: Index
    first: Index


def listen(outputs: WindowOutputs, streams: Sequence[Stream], to: Baseline) -> StreamStates:
    """The baselines of streams after some of their utterances, by the code that runs live."""
    evidence = _evidence(outputs)
    states: list[list[BaselineState]] = [[] for _ in AFTER]
    for stream in streams:
        state = BaselineState.empty(len(outputs.labels))
        for clip in stream.before:
            state = observe(state, evidence[clip], to, ended=True)
        for number in range(max(AFTER) + 1):
            if number in AFTER:
                states[AFTER.index(number)].append(state)
            if number < max(AFTER):
                state = observe(state, evidence[stream.history[number]], to, ended=True)
    length = [len(stream.tests) for stream in streams]
    clips = np.concatenate([stream.tests for stream in streams])
    rows = outputs.windows_of(clips)
    windows = np.bincount(outputs.clip, minlength=outputs.clips)[clips]
    return StreamStates(
        outputs,
        states,
        stream=np.repeat(np.arange(len(streams)), length),
        clips=clips,
        speaker=np.repeat([stream.speaker for stream in streams], length),
        rows=rows,
        first=np.cumsum(windows) - windows,
    )


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
        Evidence(relative[k] / seconds[k], cold[k] / seconds[k], float(seconds[k]))
        if seconds[k]
        else None
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

    def tables(self) -> Index:
        """Counts by (speaker, true label, predicted label)."""
        n = self.probabilities.shape[1]
        found = np.zeros((int(self.speaker.max()) + 1, n, n), np.int64)
        np.add.at(found, (self.speaker, self.truth, self.probabilities.argmax(axis=1)), 1)
        return found


def judge(heard: StreamStates, after: int | None, temperature: float, to: Baseline) -> Judged:
    """The judged utterances of streams.

    Args:
        after: position in `AFTER` of the number of utterances heard; None: without a baseline.
        temperature: of the scores without a baseline.
        to: parameters; its `prior` and `bias` are replaced by those of the outputs.
    """
    outputs, rows = heard.outputs, heard.rows
    to = dataclasses.replace(to, prior=(0.0,) * len(outputs.labels), bias=tuple(outputs.bias))
    neutral = outputs.labels.index("neutral")
    empty = [BaselineState.empty(len(outputs.labels))] * len(heard.states[0])
    states = empty if after is None else heard.states[after]
    earned = [trust_in(state, to, neutral) for state in states]
    windows = np.diff(np.append(heard.first, len(rows)))
    stream = np.repeat(heard.stream, windows)
    weight = np.array([one.weight for one in earned])[stream, np.newaxis]
    share = np.array([one.share for one in earned])[stream, np.newaxis]
    offset = np.stack([one.offset for one in earned])[stream]
    # As `infer.baseline.blend`, for all windows at once; a test compares the two.
    scores = (1.0 - weight) * outputs.cold[rows] + weight * (outputs.relative[rows] + offset)
    scores /= temperature + share * (to.temperature - temperature)
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    mean = np.add.reduceat(raised, heard.first, axis=0) / windows[:, np.newaxis]
    return Judged(heard.speaker, outputs.truth[heard.clips], mean)


def make_streams(outputs: WindowOutputs, scenario: str, seeds: Sequence[int]) -> list[Stream]:
    """All streams of a scenario; the same for the same seeds."""
    maker = SCENARIOS[scenario]
    return [stream for seed in seeds for stream in maker(outputs, np.random.default_rng([seed, 1]))]


Heard = dict[str, dict[str, StreamStates]]


def listen_to_all(corpora: Sequence[WindowOutputs], to: Baseline, seeds: Sequence[int]) -> Heard:
    """Scenario → corpus → its streams. A corpus without streams of a scenario is left out."""
    found: Heard = {}
    for scenario in SCENARIOS:
        streams = {outputs.name: make_streams(outputs, scenario, seeds) for outputs in corpora}
        found[scenario] = {
            outputs.name: listen(outputs, streams[outputs.name], to)
            for outputs in corpora
            if streams[outputs.name]
        }
    return found


def figures(heard: Heard, temperature: float, to: Mapping[str, Baseline]) -> dict[str, Any]:
    """Scenario → corpus → figures after each number of utterances, and a summary.

    Args:
        to: the parameters for each corpus.
    """
    scenarios = {
        scenario: {name: _row(one, temperature, to[name]) for name, one in rows.items()}
        for scenario, rows in heard.items()
    }
    return {"scenarios": scenarios, "summary": summary(scenarios)}


def _row(heard: StreamStates, temperature: float, to: Baseline) -> dict[str, Any]:
    judged = [judge(heard, k, temperature, to) for k in range(len(AFTER))]
    tables, cold = [one.tables() for one in judged], judge(heard, None, temperature, to).tables()
    row: dict[str, Any] = {
        "speakers": len(np.unique(judged[0].speaker)),
        "judged": len(judged[0].truth),
        "cold_uar": uar_of(cold.sum(axis=0)),
        "after": {},
    }
    for number, one, table in zip(AFTER, judged, tables, strict=True):
        right = one.probabilities.argmax(axis=1) == one.truth
        row["after"][str(number)] = {
            "uar": uar_of(table.sum(axis=0)),
            "gain": uar_of(table.sum(axis=0)) - uar_of(cold.sum(axis=0)),
            "gain_ci": gain_interval(cold, table),
            "ece": ece(right, one.probabilities.max(axis=1)),
        }
    return row


def uar_of(table: Index) -> float:
    """UAR of a confusion matrix."""
    return float(_uars(table))


def gain_interval(cold: Index, warm: Index, seed: int = 0) -> list[float]:
    """95 % bootstrap interval over speakers of the difference of two UARs.

    Args:
        cold, warm: confusion matrices per speaker, (speakers, labels, labels).
    """
    there = np.flatnonzero(cold.sum(axis=(1, 2)))
    drawn = np.random.default_rng(seed).choice(there, (RESAMPLES, len(there)))
    counts = np.stack([np.bincount(one, minlength=len(cold)) for one in drawn])
    difference = _uars(np.tensordot(counts, warm, 1)) - _uars(np.tensordot(counts, cold, 1))
    return [float(np.quantile(difference, 0.025)), float(np.quantile(difference, 0.975))]


def _uars(tables: Index) -> Matrix:
    """UAR of each confusion matrix (…, labels, labels); labels that do not occur do not count."""
    totals = tables.sum(axis=-1)
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    found: Matrix = (right / np.maximum(totals, 1)).sum(axis=-1) / (totals > 0).sum(axis=-1)
    return found


def summary(scenarios: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Scenario → number of utterances → mean over the corpora, and the worst of them."""
    found: dict[str, Any] = {}
    for scenario, rows in scenarios.items():
        found[scenario] = {}
        for number in map(str, AFTER):
            each = {name: row["after"][number] for name, row in rows.items()}
            worst = min(each, key=lambda name: each[name]["gain"])
            found[scenario][number] = {
                **{
                    key: float(np.mean([one[key] for one in each.values()]))
                    for key in ("uar", "gain", "ece")
                },
                "worst": worst,
                "worst_gain": each[worst]["gain"],
                "worst_ci": each[worst]["gain_ci"],
            }
    return found


def colds(found: Mapping[str, Any], scenario: str) -> Iterator[float]:
    """UAR of each corpus without a baseline."""
    for row in found["scenarios"][scenario].values():
        yield row["cold_uar"]


def table(found: Mapping[str, Any]) -> str:
    """The summary as a Markdown table."""
    heads = ["cold", *(f"after {number}" for number in AFTER)]
    lines = [
        f"| stream | {' | '.join(heads)} | worst corpus after {AFTER[-1]} |",
        f"|---|{'---|' * (len(AFTER) + 2)}",
    ]
    for scenario, rows in found["summary"].items():
        cells = [f"{100 * np.mean(list(colds(found, scenario))):.1f}"]
        for number in AFTER:
            row = rows[str(number)]
            cells.append(f"{100 * row['uar']:.1f} ({100 * row['gain']:+.1f})")
        last = rows[str(AFTER[-1])]
        low, high = last["worst_ci"]
        worst = f"{last['worst']} {100 * last['worst_gain']:+.1f}"
        cells.append(f"{worst} ({100 * low:+.1f} to {100 * high:+.1f})")
        lines.append(f"| {scenario} | {' | '.join(cells)} |")
    return "\n".join(lines)
