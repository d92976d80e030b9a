"""UAR after some utterances of a stream, against the same utterances without a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.infer.baseline import BaselineState, Evidence, Trust, observe, trust_in
from speech_emotion.train.evaluation.metrics import RESAMPLES, ece
from speech_emotion.train.evaluation.streams.scenarios import SCENARIOS, Stream
from speech_emotion.train.evaluation.streams.window_outputs import (
    Index,
    Matrix,
    Parameters,
    WindowOutputs,
)

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
    evidence = evidence_of(outputs)
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


def evidence_of(outputs: WindowOutputs) -> list[Evidence | None]:
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
        for table in (outputs.relative, outputs.probabilities)
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

    def labelled(self, to: Parameters, neutral: int) -> dict[str, float]:
        """Of 100 neutral utterances, those with another label; of 100 others, those with theirs."""
        scores = np.log(np.maximum(self.probabilities, 1e-12))
        scores /= to.calibration.utterance_temperature
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        raised /= raised.sum(axis=1, keepdims=True)
        label = (scores + np.array(to.decision.bias or 0.0)).argmax(axis=1)
        confidence = raised[np.arange(len(label)), label]
        sure, calm = confidence >= to.decision.min_utterance_confidence, self.truth == neutral
        false, found = sure & (label != neutral), sure & (label == self.truth)
        return {
            "false_per_100": 100.0 * float(false[calm].mean()) if calm.any() else 0.0,
            "found_per_100": 100.0 * float(found[~calm].mean()) if (~calm).any() else 0.0,
        }

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
    raised = blended(outputs, rows, earned, np.repeat(heard.stream, windows), temperature, to)
    mean = np.add.reduceat(raised, heard.first, axis=0) / windows[:, np.newaxis]
    return Judged(heard.speaker, outputs.truth[heard.clips], mean)


def blended(
    outputs: WindowOutputs,
    rows: Index,
    earned: Sequence[Trust],
    owner: Index,
    temperature: float,
    to: Baseline,
) -> Matrix:
    """Probabilities of windows (rows, labels), as `infer.baseline.blend` for all of them at once.

    Args:
        rows: the windows.
        earned: trust in some states of a baseline.
        owner: position in `earned` of each window, (rows,).
        temperature: of the scores without a baseline.
    """
    weight = np.array([one.weight for one in earned])[owner, np.newaxis]
    share = np.array([one.share for one in earned])[owner, np.newaxis]
    offset = np.stack([one.offset for one in earned])[owner]
    # A test compares this with `blend`.
    scores = (1.0 - weight) * outputs.cold[rows] + weight * (outputs.relative[rows] + offset)
    scores /= temperature + share * (to.temperature - temperature)
    scores /= outputs.growth[rows, np.newaxis]
    raised: Matrix = np.exp(scores - scores.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return raised


def make_streams(outputs: WindowOutputs, scenario: str, seeds: Sequence[int]) -> list[Stream]:
    """All streams of a scenario; the same for the same seeds."""
    maker = SCENARIOS[scenario]
    return [stream for seed in seeds for stream in maker(outputs, np.random.default_rng([seed, 1]))]


Heard = dict[str, dict[str, StreamStates]]


def listen_to_all(corpora: Sequence[WindowOutputs], to: Baseline, seeds: Sequence[int]) -> Heard:
    """Scenario → corpus → its streams, without corpora and scenarios that have none."""
    found: Heard = {}
    for scenario in SCENARIOS:
        streams = {outputs.name: make_streams(outputs, scenario, seeds) for outputs in corpora}
        rows = {
            outputs.name: listen(outputs, streams[outputs.name], to)
            for outputs in corpora
            if streams[outputs.name]
        }
        if rows:
            found[scenario] = rows
    return found


def figures(heard: Heard, given: Parameters, to: Mapping[str, Baseline]) -> dict[str, Any]:
    """Scenario → corpus → figures after each number of utterances, and a summary.

    Args:
        given: calibration and decision.
        to: the parameters of the baseline for each corpus.
    """
    scenarios = {
        scenario: {name: _row(one, given, to[name]) for name, one in rows.items()}
        for scenario, rows in heard.items()
    }
    return {"scenarios": scenarios, "summary": summary(scenarios)}


def _row(heard: StreamStates, given: Parameters, to: Baseline) -> dict[str, Any]:
    temperature, neutral = given.calibration.temperature, heard.outputs.labels.index("neutral")
    judged = [judge(heard, k, temperature, to) for k in range(len(AFTER))]
    without = judge(heard, None, temperature, to)
    tables, cold = [one.tables() for one in judged], without.tables()
    row: dict[str, Any] = {
        "speakers": len(np.unique(judged[0].speaker)),
        "judged": len(judged[0].truth),
        "cold": {"uar": uar_of(cold.sum(axis=0)), **without.labelled(given, neutral)},
        "after": {},
    }
    for number, one, table in zip(AFTER, judged, tables, strict=True):
        right = one.probabilities.argmax(axis=1) == one.truth
        row["after"][str(number)] = {
            "uar": uar_of(table.sum(axis=0)),
            "gain": uar_of(table.sum(axis=0)) - uar_of(cold.sum(axis=0)),
            "gain_ci": gain_interval(cold, table),
            "ece": ece(right, one.probabilities.max(axis=1)),
            **one.labelled(given, neutral),
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
    gains = resampled_gains(cold, warm, seed)
    return [float(np.quantile(gains, 0.025)), float(np.quantile(gains, 0.975))]


def resampled_gains(cold: Index, warm: Index, seed: int = 0) -> Matrix:
    """Difference of two UARs in each bootstrap resample of the speakers, (resamples,)."""
    there = np.flatnonzero(cold.sum(axis=(1, 2)))
    drawn = np.random.default_rng(seed).choice(there, (RESAMPLES, len(there)))
    counts = np.stack([np.bincount(one, minlength=len(cold)) for one in drawn])
    return _uars(np.tensordot(counts, warm, 1)) - _uars(np.tensordot(counts, cold, 1))


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
                    for key in ("uar", "gain", "ece", "false_per_100", "found_per_100")
                },
                "worst": worst,
                "worst_gain": each[worst]["gain"],
                "worst_ci": each[worst]["gain_ci"],
            }
    return found


def table(found: Mapping[str, Any]) -> str:
    """UAR of each scenario as a Markdown table."""
    rows = []
    for scenario, after in found["summary"].items():
        cells = [f"{100 * _cold(found, scenario, 'uar'):.1f}"]
        for number in map(str, AFTER):
            one = after[number]
            cells.append(f"{100 * one['uar']:.1f} ({100 * one['gain']:+.1f})")
        last = after[str(AFTER[-1])]
        low, high = last["worst_ci"]
        worst = f"{last['worst']} {100 * last['worst_gain']:+.1f}"
        cells.append(f"{worst} ({100 * low:+.1f} to {100 * high:+.1f})")
        rows.append([scenario, *cells])
    heads = ["stream", "cold", *(f"after {n}" for n in AFTER), f"worst corpus after {AFTER[-1]}"]
    return _markdown(heads, rows)


def label_table(found: Mapping[str, Any]) -> str:
    """False labels and emotions found by the bundle's decision, as a Markdown table."""
    rows = []
    for scenario, after in found["summary"].items():
        cells = [
            f"{_cold(found, scenario, 'false_per_100'):.1f} / "
            f"{_cold(found, scenario, 'found_per_100'):.1f}"
        ]
        cells += [
            f"{after[str(n)]['false_per_100']:.1f} / {after[str(n)]['found_per_100']:.1f}"
            for n in AFTER
        ]
        rows.append([scenario, *cells])
    return _markdown(["stream", "cold", *(f"after {n}" for n in AFTER)], rows)


def _cold(found: Mapping[str, Any], scenario: str, key: str) -> float:
    """Mean over the corpora of a figure without a baseline."""
    return float(np.mean([row["cold"][key] for row in found["scenarios"][scenario].values()]))


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
