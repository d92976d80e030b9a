"""Outputs for corpora and speakers left out; calibration, figures and operating point."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.train.data.stream_features import ClipFeatures
from speech_emotion.train.evaluation.calibration import calibrate_bundle
from speech_emotion.train.evaluation.metrics import ece, figures, risk_at
from speech_emotion.train.evaluation.offline_decisions import ClipDecisions, decide_clip
from speech_emotion.train.evaluation.operating_points import (
    Utterances,
    chosen_labels,
    label_rates,
)
from speech_emotion.train.model.whisper.graph import Head, Relative
from speech_emotion.train.model.whisper.heads import (
    LABELS,
    NEUTRAL,
    HeadTrainingSet,
    Index,
    WindowSums,
    columns_of,
    fit_head,
)

log = logging.getLogger("train")


class LabelledClips(Protocol):
    """A training set whose clips all have a label: label index, corpus and speaker, (clips,)."""

    @property
    def truth(self) -> Index: ...
    @property
    def corpus(self) -> NDArray[np.str_]: ...
    @property
    def speaker(self) -> NDArray[np.str_]: ...


@dataclasses.dataclass(frozen=True)
class HeldOutOutputs:
    """Outputs of models for clips that they were not trained on.

    Attributes:
        clips: clip indices, (clips,).
        outputs: per clip, (windows, outputs of the head), see `Head.outputs`.
        relative: per clip, the relative scores of its head; None without them.
        features: per clip, what gate and feature core give; empty: all its windows are speech.
    """

    clips: Index
    outputs: list[NDArray[np.float32]]
    relative: list[Relative | None]
    features: Sequence[ClipFeatures] = ()

    def at(self, chosen: NDArray[np.bool_]) -> HeldOutOutputs:
        """Of some clips.

        Args:
            chosen: (clips,).
        """
        rows = np.flatnonzero(chosen).tolist()
        return HeldOutOutputs(
            self.clips[rows],
            [self.outputs[i] for i in rows],
            [self.relative[i] for i in rows],
            [self.features[i] for i in rows] if self.features else (),
        )

    @property
    def clip_features(self) -> Sequence[ClipFeatures]:
        """Features per clip for `decide_clip`."""
        return self.features or [speech_features(o) for o in self.outputs]


def head_outputs(training_set: HeadTrainingSet, head: Head, clips: Index) -> HeldOutOutputs:
    """Outputs of a head for the clean windows of some clips."""
    clean = training_set.renderings[0]
    rows = np.flatnonzero(np.isin(clean.clip, clips))
    found = head.outputs(clean.x[np.ix_(rows, columns_of(head.names))])
    owner = clean.clip[rows]
    outputs = [found[owner == clip] for clip in clips]
    return HeldOutOutputs(clips, outputs, [head.relative] * len(clips))


def corpus_heads(window_sums: WindowSums) -> Iterator[tuple[Head, Index]]:
    """For every corpus a head that was not trained on it, and the corpus's clips."""
    corpus = window_sums.training_set.corpus
    names, folds = sorted(set(corpus.tolist())), sorted(set(window_sums.fold.tolist()))
    for name in names:
        head = fit_head(window_sums, [n for n in names if n != name], folds)
        yield head, np.flatnonzero(corpus == name)
        log.info("left out %s", name)


def speaker_heads(window_sums: WindowSums) -> Iterator[tuple[Head, Index]]:
    """For every group of speakers a head that was trained on the others, and the group's clips."""
    names = sorted(set(window_sums.training_set.corpus.tolist()))
    folds = sorted(set(window_sums.fold.tolist()))
    for k in folds:
        head = fit_head(window_sums, names, [f for f in folds if f != k])
        yield head, np.flatnonzero(window_sums.fold == k)
        log.info("fold %d of %d", k + 1, len(folds))


def left_out(training_set: HeadTrainingSet, heads: Iterable[tuple[Head, Index]]) -> HeldOutOutputs:
    """Outputs for the clips of `corpus_heads` or `speaker_heads`."""
    return joined([head_outputs(training_set, head, clips) for head, clips in heads])


def other_corpora(window_sums: WindowSums, others: HeadTrainingSet) -> HeldOutOutputs:
    """Outputs for clips of corpora outside the training set, from a head trained on all of it."""
    names = sorted(set(window_sums.training_set.corpus.tolist()))
    head = fit_head(window_sums, names, sorted(set(window_sums.fold.tolist())))
    return head_outputs(others, head, np.arange(len(others.clips)))


def joined(parts: Sequence[HeldOutOutputs]) -> HeldOutOutputs:
    """The outputs together; a clip may be in several parts."""
    clips = np.concatenate([p.clips for p in parts])
    outputs = [o for p in parts for o in p.outputs]
    relative = [r for p in parts for r in p.relative]
    order = np.argsort(clips, kind="stable")
    return HeldOutOutputs(clips[order], [outputs[i] for i in order], [relative[i] for i in order])


def speech_features(outputs: NDArray[np.float32]) -> ClipFeatures:
    """Features for `decide_clip` of a clip whose windows are all speech, at -20 dBFS."""
    n = len(outputs)
    return ClipFeatures(["speech"] * n, [-20.0] * n, [0.0] * n, np.zeros((n, 0, 0), np.float32))


def decide_held_out(held_out: HeldOutOutputs, bundle: Bundle) -> list[ClipDecisions]:
    """Decisions per clip, by the decision code that runs live."""
    pairs = zip(held_out.clip_features, held_out.outputs, strict=True)
    return [decide_clip(f, o, bundle) for f, o in pairs]


def calibrate(bundle: Bundle, training_set: LabelledClips, held_out: HeldOutOutputs) -> Bundle:
    """The bundle with temperatures and speech thresholds fitted on held-out clips."""
    return calibrate_bundle(
        bundle,
        held_out.clip_features,
        held_out.outputs,
        training_set.truth[held_out.clips],
        training_set.corpus[held_out.clips],
    )


def nested_ece(
    bundle: Bundle, training_set: LabelledClips, held_out: HeldOutOutputs, *, own: bool = False
) -> dict[str, float]:
    """Corpus → ECE of its utterances with the temperatures that fit the other corpora.

    Args:
        bundle: without calibration.
        own: with those that fit the corpus itself: what is lost by one calibration for all.
    """
    truth, corpus = training_set.truth[held_out.clips], training_set.corpus[held_out.clips]
    found = {}
    for name in np.unique(corpus):
        mine = corpus == name
        tuned = calibrate(bundle, training_set, held_out.at(mine if own else ~mine))
        decisions = decide_held_out(held_out.at(mine), tuned)
        probabilities = np.array([d.probabilities for d in decisions])
        right = probabilities.argmax(axis=1) == truth[mine]
        found[str(name)] = ece(right, probabilities.max(axis=1))
    return found


def table(training_set: LabelledClips, held_out: HeldOutOutputs, bundle: Bundle) -> dict[str, Any]:
    """Utterance figures per corpus, their mean and pooled; bootstrap intervals over speakers."""
    results = decide_held_out(held_out, bundle)
    probabilities = np.array([j.probabilities for j in results])
    sure = np.array([j.sure for j in results])
    truth, corpus = training_set.truth[held_out.clips], training_set.corpus[held_out.clips]
    speaker = training_set.speaker[held_out.clips]
    found: dict[str, Any] = {"corpora": {}}
    for name in np.unique(corpus):
        r = corpus == name
        row = figures(truth[r], probabilities[r], sure[r], len(LABELS), speaker[r])
        right = probabilities[r].argmax(axis=1) == truth[r]
        given = chosen_labels(probabilities[r], bundle.decision.bias)
        row |= {
            "error_at_70": risk_at(right, probabilities[r].max(axis=1), 0.7),
            **label_rates(truth[r], given, sure[r], NEUTRAL),
        }
        found["corpora"][str(name)] = row
    rows = list(found["corpora"].values())
    found["mean"] = {
        key: float(np.mean([row[key] for row in rows]))
        for key in ("uar", "ece", "accuracy", "coverage", "false_per_100", "found_per_100")
    }
    right = probabilities.argmax(axis=1) == truth
    found["pooled"] = {
        "ece": ece(right, probabilities.max(axis=1)),
        "error": float(1 - right.mean()),
        "error_at_70": risk_at(right, probabilities.max(axis=1), 0.7),
    }
    return found


def utterances(
    training_set: LabelledClips, held_out: HeldOutOutputs, bundle: Bundle
) -> dict[str, Utterances]:
    """Corpus → its held-out utterances, by the decision code that runs live."""
    results = decide_held_out(held_out, bundle)
    probabilities = np.array([r.probabilities for r in results])
    truth, corpus = training_set.truth[held_out.clips], training_set.corpus[held_out.clips]
    return {
        str(name): Utterances(probabilities[corpus == name], truth[corpus == name])
        for name in np.unique(corpus)
    }
