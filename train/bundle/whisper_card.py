"""Figures of a bundle with Whisper's lower layers, and its model card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.train.bundle.card import PURPOSE
from speech_emotion.train.bundle.whisper_licence import CARD_TEXTS
from speech_emotion.train.evaluation.held_out import HeldOutOutputs, LabelledClips
from speech_emotion.train.evaluation.operating_points import ALL_FACTOR, MAX_FALSE
from speech_emotion.train.model.whisper.heads import LABELS, HeadRecipe, HeadTrainingSet

SAMPLE = 300
"""Number of training windows on which the 8-bit graph is compared with the float32 graph."""
FEW_CORPORA = 2
FEW_CORPORA_NOTE = (
    "two corpora are too few for a good one. A corpus left out is heard by a head of the other "
    "one, which is weaker than the bundle's; new speakers of known corpora are easier than new "
    "corpora. The temperatures and the operating points are fitted on both together. Use "
    "`sensitivity = high`, or lower `min_confidence` and `min_utterance_confidence` in "
    "`bundle.toml`, if you can bear more false labels"
)
RELATIVE_NOTE = (
    "the relative scores compare a window with the usual sound of its stream. The figures here are "
    "without that, as for the first utterance of a stream; `docs/MODEL_BASELINE.md` has the others"
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """All figures of a recipe, and the bundle parameters fitted with them.

    Attributes:
        left_out: `held_out.table` of every corpus left out.
        new_speakers: `held_out.table` of speaker-independent folds.
        frontier: `operating_points.frontier` of the corpora left out.
        nested: operating point → `operating_points.nested`.
        nested_ece, own_ece: `held_out.nested_ece`, calibrated on the others and on itself.
        parameters: a bundle without files: temperatures and operating points.
        outputs: of the corpora left out, of the speakers left out, and of other corpora, by name.
        others: `held_out.table` of corpora that are for evaluation only; None if there are none.
        others_rates: operating point → `operating_points.rates` of those; empty if there are none.
    """

    left_out: dict[str, Any]
    new_speakers: dict[str, Any]
    frontier: list[dict[str, Any]]
    nested: dict[str, Any]
    nested_ece: dict[str, float]
    own_ece: dict[str, float]
    parameters: Bundle
    outputs: dict[str, tuple[HeadTrainingSet, HeldOutOutputs]]
    others: dict[str, Any] | None = None
    others_rates: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Exported:
    """The 8-bit graph and its comparison with the float32 graph.

    Attributes:
        model: the flatbuffer.
        difference: largest difference of a probability.
        relative_difference: largest difference of a relative score; 0 without them.
        changed: share of the windows whose label differs.
        lost: accuracy of the float32 graph minus accuracy of the 8-bit graph.
        milliseconds: mean CPU time of a window, one thread, on this machine.
    """

    model: bytes
    difference: float
    relative_difference: float
    changed: float
    lost: float
    milliseconds: float


def complete(training_set: LabelledClips) -> list[str]:
    """Names of the corpora that have a clip of every label."""
    truth, corpus = training_set.truth, training_set.corpus
    return [
        str(c)
        for c in np.unique(corpus)
        if set(range(len(LABELS))) <= set(truth[corpus == c].tolist())
    ]


def card(
    name: str,
    training_set: HeadTrainingSet,
    recipe: HeadRecipe,
    figures: Figures,
    exported: Exported,
    licence: str,
    command: str,
) -> str:
    """The text of MODEL_CARD.md."""
    return (
        "\n\n".join(
            [
                f"# Model card: {name}",
                f"Labels: {', '.join(LABELS)}. Licence: {licence}.",
                "\n".join(
                    f"- **{key}:** {value}"
                    for key, value in _facts(training_set, recipe, exported).items()
                ),
                PURPOSE.strip(),
                *(["## Licence", CARD_TEXTS[licence]] if licence in CARD_TEXTS else []),
                "## Figures",
                "Per cent, of utterances; 95 % intervals by a bootstrap over speakers. Acted "
                "speech, but for the commands of EMOSPEECH. Made by:",
                f"    {command}",
                *(
                    [
                        "**Other corpora** (the bundle's own head, temperatures and operating "
                        "point; no clip of these corpora was used for any of them, but if the "
                        "recipe was chosen on them, the figures are slightly too good; choose by "
                        "these)",
                        markdown(figures.others),
                    ]
                    if figures.others
                    else []
                ),
                "**New corpora** (each left out of training"
                f"{'' if figures.others else '; choose by these'})",
                markdown(figures.left_out),
                *([] if _few(training_set) else [nested_ece_text(figures)]),
                "**New speakers, known corpora** (5 speaker-independent folds; the temperatures "
                f"are those of {_basis(training_set)})",
                markdown(figures.new_speakers),
                "## Operating points",
                operating_points_text(training_set, figures),
                f"**False labels against emotions found** ({_basis(training_set)}: for each "
                "limit of false labels the bias of neutral and sad, and the threshold, that find "
                "most; without the speech threshold)",
                frontier_markdown(figures.frontier),
            ]
        )
        + "\n"
    )


def _few(training_set: LabelledClips) -> bool:
    return len(set(training_set.corpus.tolist())) <= FEW_CORPORA


def _basis(training_set: LabelledClips) -> str:
    """What the operating points are chosen on, see `figures_left_out`."""
    few = _few(training_set)
    return "corpora left out and new speakers together" if few else "the corpora left out"


def renderings_text(recipe: HeadRecipe) -> str:
    """In which forms a recipe uses a clip, with their weights against the clean one."""
    found = f"clean and in {recipe.copies} simulated recording{'s' * (recipe.copies != 1)}"
    if recipe.recordings is not None:
        found += f" (weight {recipe.recordings:g})"
    if recipe.crops:
        found += f", and cropped to a word or two (weight {recipe.crops:g})"
    return found


def _facts(training_set: HeadTrainingSet, recipe: HeadRecipe, exported: Exported) -> dict[str, str]:
    speakers = len(set(training_set.speaker.tolist()))
    corpora = sorted(set(training_set.corpus.tolist()))
    heads = "one linear head"
    if recipe.average and len(corpora) > FEW_CORPORA:
        heads += " (the mean of the heads that leave one corpus out of training)"
    if recipe.relative:
        heads += ", and relative scores of the labels"
    facts = {
        "Input": "windows of 3 s every 0.5 s at 16 kHz: 300 frames of 80 log-mel bands, dB below "
        "the window's maximum",
        "Network": "convolutions and the lowest three layers of Whisper base (multilingual, MIT), "
        "not changed; the mean over the frames of speech of "
        f"{', '.join(recipe.statistics)}; {heads}. 8-bit weights, "
        f"{len(exported.model) / 1e6:.1f} MB, {exported.milliseconds:.1f} ms of CPU time a "
        "window, one thread of the machine that built it. 8 bits change "
        f"{100 * exported.changed:.1f} % of the labels of {SAMPLE} real windows and cost "
        f"{100 * exported.lost:.1f} points of accuracy",
        "Trained on": f"{len(training_set.clips)} clips of {speakers} speakers of "
        f"{', '.join(corpora)}, {renderings_text(recipe)}",
    }
    if recipe.relative:
        facts["Baseline"] = RELATIVE_NOTE
    if _few(training_set):
        facts["Calibration"] = FEW_CORPORA_NOTE
    return facts


def markdown(table: Mapping[str, Any]) -> str:
    """A `held_out.table` as a Markdown table."""
    rows = [
        "| corpus | clips | UAR | accuracy | ECE | error at 70 % / all | labelled "
        "| of 100 neutral, emotional label | of 100 emotional, found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for corpus, r in table["corpora"].items():
        low, high = r["uar_ci"]
        rows.append(
            f"| {corpus} | {r['n']} | {100 * r['uar']:.1f} ({100 * low:.1f}–{100 * high:.1f}) | "
            f"{100 * r['accuracy']:.1f} | {100 * r['ece']:.1f} | {100 * r['error_at_70']:.1f} / "
            f"{100 - 100 * r['accuracy']:.1f} | {100 * r['coverage']:.0f} | "
            f"{r['false_per_100']:.1f} | {r['found_per_100']:.1f} |"
        )
    mean = table["mean"]
    rows.append(
        f"| mean | | {100 * mean['uar']:.1f} | {100 * mean['accuracy']:.1f} | "
        f"{100 * mean['ece']:.1f} | | {100 * mean['coverage']:.0f} | {mean['false_per_100']:.1f} | "
        f"{mean['found_per_100']:.1f} |"
    )
    return "\n".join(rows)


def nested_ece_text(figures: Figures) -> str:
    """The ECE of every corpus with temperatures that fit the other ones, and the corpus itself."""

    def text(found: dict[str, float]) -> str:
        each = ", ".join(f"{name} {100 * ece:.1f}" for name, ece in found.items())
        return f"{each}; mean {100 * float(np.mean(list(found.values()))):.1f}"

    return (
        f"ECE with the temperatures that fit the other corpora: {text(figures.nested_ece)}. "
        "Expect these on voices of your own. With those that fit the corpus itself: "
        f"{text(figures.own_ece)}."
    )


def operating_points_text(training_set: LabelledClips, figures: Figures) -> str:
    """What the operating points are, and a table of them."""
    deciding = complete(training_set)
    rows = [
        "| `sensitivity` | bias of neutral, sad | threshold | labelled | of 100 neutral, emotional "
        "label | of 100 emotional, found | the same, chosen on the other corpora |",
        "|---|---|---|---|---|---|---|",
    ]
    parameters = figures.parameters
    for name in MAX_FALSE:
        decision = parameters.at(name).decision
        row = next(r for r in figures.frontier if r["most"] == MAX_FALSE[name])
        each, checked = row["all"], figures.nested[name]
        rows.append(
            f"| {name} | {_bias(decision.bias)} | {decision.min_utterance_confidence:.2f} | "
            f"{100 * each['coverage']:.0f} | {each['false_per_100']:.1f} | "
            f"{each['found_per_100']:.1f} | {checked['false_per_100']:.1f}, "
            f"{checked['found_per_100']:.1f} |"
        )
    limits = ", ".join(f"{MAX_FALSE[name]:g} ({name})" for name in MAX_FALSE)
    return (
        "A decision adds a bias to the log-probabilities of neutral and sad before it chooses the "
        f"label, and gives none below the threshold. Chosen on {_basis(training_set)}, to find "
        f"most with at most {limits} of 100 neutral utterances with an emotional label, the mean "
        f"of the corpora with all labels ({', '.join(deciding)}), and {ALL_FACTOR:g} times as "
        "many, the mean of all. The table has the mean of all; the last column judges each corpus "
        "at the point that the others choose.\n\n" + "\n".join(rows)
    )


def _bias(bias: Sequence[float]) -> str:
    values = dict(zip(LABELS, bias or (0.0,) * len(LABELS), strict=True))
    return f"{values['neutral']:+.1f}, {values['sad']:+.1f}"


def frontier_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """An `operating_points.frontier` as a Markdown table."""
    lines = [
        "| limit | bias of neutral, sad | threshold | labelled | of 100 neutral, emotional label: "
        "corpora with all labels, all | of 100 emotional, found: the same |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        few, each = row["deciding"], row["all"]
        lines.append(
            f"| {row['most']:g} | {_bias(row['bias'])} | {row['threshold']:.2f} | "
            f"{100 * each['coverage']:.0f} | {few['false_per_100']:.1f}, "
            f"{each['false_per_100']:.1f} | {few['found_per_100']:.1f}, "
            f"{each['found_per_100']:.1f} |"
        )
    return "\n".join(lines)
