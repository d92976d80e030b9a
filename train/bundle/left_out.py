"""Figures and parameters of a bundle from outputs for corpora and speakers left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.errors import UserError
from speech_emotion.train.bundle.whisper_card import (
    Figures,
    complete,
    frontier_markdown,
    markdown,
    nested_ece_text,
    operating_points_text,
)
from speech_emotion.train.data.splits import leave_corpus_out, speaker_folds
from speech_emotion.train.evaluation import held_out as study
from speech_emotion.train.evaluation import operating_points
from speech_emotion.train.evaluation.crossval import uncalibrated_bundle
from speech_emotion.train.evaluation.held_out import HeldOutOutputs, LabelledClips
from speech_emotion.train.evaluation.protocols import held_out_outputs
from speech_emotion.train.model.training_job import TrainingJob
from speech_emotion.train.model.whisper.heads import LABELS

LIMITS = (1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0)
"""Rows of the table of false labels against emotions found."""


def figures_left_out(
    training_set: LabelledClips,
    blank: Bundle,
    corpora: HeldOutOutputs,
    speakers: HeldOutOutputs,
    deciding: Sequence[str] = (),
    *,
    few: bool = False,
) -> Figures:
    """Calibrate on corpora left out; figures for these and for speakers left out.

    Args:
        blank: a bundle without files: labels, no calibration.
        corpora: outputs for every corpus from a model that was not trained on it.
        speakers: outputs for speakers from a model that was trained on others.
        deciding: corpora that determine the operating point; empty: those with every label.
        few: calibrate on the speakers left out, too, and choose the operating points on both. A
            model of one of two corpora is much weaker than that of both, on a corpus left out.
    """
    basis = study.joined([corpora, speakers]) if few else corpora
    bundle = study.calibrate(blank, training_set, basis)
    labels, chosen = bundle.labels, deciding or complete(training_set)
    # From new speakers: on corpora left out, unknown rooms and codecs would lower these to 0.
    speech = study.calibrate(blank, training_set, speakers).decision
    common = dataclasses.replace(
        bundle.decision,
        min_speech=speech.min_speech,
        min_utterance_speech=speech.min_utterance_speech,
    )
    found = study.utterances(training_set, basis, bundle)
    decisions = {}
    for name, most in operating_points.MAX_FALSE.items():
        point = operating_points.search(found, chosen, labels, most)
        decisions[name] = dataclasses.replace(
            common,
            bias=point.bias,
            min_confidence=point.threshold,
            min_utterance_confidence=point.threshold,
        )
    bundle = dataclasses.replace(
        bundle,
        decision=decisions["medium"],
        sensitivity={name: d for name, d in decisions.items() if name != "medium"},
    )
    return Figures(
        left_out=study.table(training_set, corpora, bundle),
        new_speakers=study.table(training_set, speakers, bundle),
        frontier=operating_points.frontier(found, chosen, labels, LIMITS),
        nested={
            name: operating_points.nested(found, chosen, labels, most)
            for name, most in operating_points.MAX_FALSE.items()
        },
        nested_ece=study.nested_ece(blank, training_set, corpora),
        own_ece=study.nested_ece(blank, training_set, corpora, own=True),
        parameters=bundle,
        outputs={},
    )


def measure(job: TrainingJob, folds: int) -> Figures:
    """Train without each corpus, and without one of `folds` groups of speakers; figures of these.

    Raises:
        UserError: the clips are of one corpus, or the recipe has other labels than `four`.
    """
    clips = job.training_set.clips
    corpora = leave_corpus_out(clips)
    if not corpora or job.labels != LABELS:
        raise UserError(
            f"--left-out corpora needs clips of two corpora, and the labels {', '.join(LABELS)}"
        )
    features = job.clip_features()
    return figures_left_out(
        job,
        uncalibrated_bundle(job),
        held_out_outputs(job, corpora, features),
        held_out_outputs(job, speaker_folds(clips, folds)[:1], features),
    )


def text(job: TrainingJob, figures: Figures, folds: int) -> str:
    """The figures of `measure` as Markdown."""
    return markdown_of(job, figures, f"one of {folds} groups of speakers left out of training")


def markdown_of(training_set: LabelledClips, figures: Figures, speakers: str) -> str:
    """Figures as Markdown.

    Args:
        speakers: how the new speakers were left out.
    """
    return "\n\n".join(
        [
            "95 % intervals by a bootstrap over speakers.",
            "**New corpora** (each left out of training; choose by these)",
            markdown(figures.left_out),
            nested_ece_text(figures),
            f"**New speakers, known corpora** ({speakers}; the temperatures are those of the "
            "corpora left out)",
            markdown(figures.new_speakers),
            "## Operating points",
            operating_points_text(training_set, figures),
            "**False labels against emotions found** (corpora left out: for each limit of false "
            "labels the bias of neutral and sad, and the threshold, that find most; without the "
            "speech threshold)",
            frontier_markdown(figures.frontier),
        ]
    )


def summary(figures: Figures) -> dict[str, Any]:
    """The figures and parameters as `--json` writes them."""
    parameters = figures.parameters
    return {
        "corpora_left_out": figures.left_out,
        "speakers_left_out": figures.new_speakers,
        "other_corpora": figures.others,
        "other_corpora_rates": figures.others_rates,
        "frontier": figures.frontier,
        "nested": figures.nested,
        "nested_ece": figures.nested_ece,
        "own_ece": figures.own_ece,
        "calibration": dataclasses.asdict(parameters.calibration),
        "decision": dataclasses.asdict(parameters.decision),
        "sensitivity": {k: dataclasses.asdict(d) for k, d in parameters.sensitivity.items()},
    }
