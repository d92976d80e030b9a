"""Make a bundle of Whisper's lower layers and a head: calibrate, convert, compare, write."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import Banks, make_core, normalize
from speech_emotion.features.extractor import windows_of
from speech_emotion.train.bundle.card import PURPOSE
from speech_emotion.train.bundle.whisper_licence import CARD_TEXTS
from speech_emotion.train.bundle.writer import run_tflite_all, write_bundle
from speech_emotion.train.data.clips import Samples, load
from speech_emotion.train.evaluation import held_out as study
from speech_emotion.train.evaluation.crossval import parameter_bundle
from speech_emotion.train.evaluation.held_out import HeldOutOutputs
from speech_emotion.train.model.export import to_tflite
from speech_emotion.train.model.whisper import graph, heads
from speech_emotion.train.model.whisper.encoder import statistics
from speech_emotion.train.model.whisper.graph import Head
from speech_emotion.train.model.whisper.heads import LABELS, HeadRecipe, HeadTrainingSet, WindowSums
from speech_emotion.train.model.whisper.weights import Weights

log = logging.getLogger("train")

MAX_FALSE = 5.0
"""Most emotional labels of 100 neutral utterances, the mean over the corpora left out."""
THRESHOLDS = np.round(np.arange(0.25, 0.96, 0.01), 4)
AGREEMENT, AGREEING = 1e-3, 10
"""The float32 export may differ from Keras by so much in a probability, on so many windows."""
FEW_CORPORA = 2
FEW_CORPORA_NOTE = (
    "two corpora are too few for a good one. Each is left to a head that was trained on the other "
    "one only, so the temperatures and the threshold are those of weaker heads than the bundle's, "
    "and the bundle says `uncertain` more often than it must; lower `min_confidence` and "
    "`min_utterance_confidence` in `bundle.toml` if you can bear more false labels (last table)"
)
SAMPLE = 300
"""Number of training windows on which the 8-bit graph is compared with the float32 graph."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """All figures of a recipe, and the bundle parameters fitted with them.

    Attributes:
        left_out: `held_out.table` of every corpus left out.
        new_speakers: `held_out.table` of speaker-independent folds.
        curve: `held_out.curve` of the corpora left out.
        parameters: a bundle without files: temperatures and thresholds.
        others: `held_out.table` of corpora that are for evaluation only; None if there are none.
        others_curve: `held_out.curve` of those with every label; empty if there are none.
    """

    left_out: dict[str, Any]
    new_speakers: dict[str, Any]
    curve: list[dict[str, float]]
    parameters: Bundle
    others: dict[str, Any] | None = None
    others_curve: list[dict[str, float]] = dataclasses.field(default_factory=list)


def measure(
    window_sums: WindowSums,
    spec: FeatureSpec,
    *,
    deciding: Sequence[str] = (),
    others: HeadTrainingSet | None = None,
) -> Figures:
    """Calibrate on the outputs for corpora left out; figures for these and for speakers left out.

    Args:
        deciding: corpora that determine the operating point; empty: those with every label.
        others: clips of other corpora, for evaluation only: no parameter depends on them.
    """
    training_set = window_sums.training_set
    held_out = study.corpora_left_out(window_sums)
    blank = parameter_bundle(spec, LABELS, speech_output=bool(len(training_set.noise)))
    bundle = study.calibrate(blank, training_set, held_out)
    chosen = deciding or complete(training_set)
    part = only(training_set, held_out, chosen)
    rows = study.curve(training_set, part, bundle, list(THRESHOLDS))
    threshold = study.operating_point(rows, MAX_FALSE)
    folded = study.speakers_left_out(window_sums)
    # From new speakers: on corpora left out, unknown rooms and codecs would lower these to 0.
    speech = study.calibrate(blank, training_set, folded).decision
    bundle = dataclasses.replace(
        bundle,
        decision=dataclasses.replace(
            bundle.decision,
            min_confidence=threshold,
            min_utterance_confidence=threshold,
            min_speech=speech.min_speech,
            min_utterance_speech=speech.min_utterance_speech,
        ),
    )
    measured = Figures(
        left_out=study.table(training_set, held_out, bundle),
        new_speakers=study.table(training_set, folded, bundle),
        curve=rows,
        parameters=bundle,
    )
    if others is None:
        return measured
    outputs = study.other_corpora(window_sums, others)
    part = only(others, outputs, complete(others))
    return dataclasses.replace(
        measured,
        others=study.table(others, outputs, bundle),
        others_curve=study.curve(others, part, bundle, list(THRESHOLDS)) if len(part.clips) else [],
    )


def complete(training_set: HeadTrainingSet) -> list[str]:
    """Names of the corpora that have a clip of every label."""
    truth, corpus = training_set.truth, training_set.corpus
    return [
        str(c) for c in np.unique(corpus) if len(set(truth[corpus == c].tolist())) == len(LABELS)
    ]


def only(
    training_set: HeadTrainingSet, held_out: HeldOutOutputs, corpora: Sequence[str]
) -> HeldOutOutputs:
    """The outputs for the clips of some corpora."""
    inside = np.isin(training_set.corpus[held_out.clips], list(corpora))
    return HeldOutOutputs(
        held_out.clips[inside], [o for o, i in zip(held_out.outputs, inside, strict=True) if i]
    )


@dataclasses.dataclass(frozen=True)
class Exported:
    """The 8-bit graph and its comparison with the float32 graph.

    Attributes:
        model: the flatbuffer.
        difference: largest difference of a probability.
        changed: share of the windows whose label differs.
        lost: accuracy of the float32 graph minus accuracy of the 8-bit graph.
        milliseconds: mean time of a window, one thread, on this machine.
    """

    model: bytes
    difference: float
    changed: float
    lost: float
    milliseconds: float


def export(
    weights: Weights, head: Head, spec: FeatureSpec, windows: Samples, truth: NDArray[np.int64]
) -> Exported:
    """Convert to 8-bit TFLite, and compare with the float32 graph.

    Args:
        windows: normalized features (n, frames, dims).
        truth: label index per window, (n,).
    """
    model = graph.emotion_graph(weights, head, spec.n_frames, spec.dims)
    exact = run_tflite_all(to_tflite(model), windows, "frames,dims")
    few = windows[:AGREEING]
    keras = np.concatenate([np.asarray(model(w[np.newaxis], training=False)) for w in few])
    off = float(np.abs(exact[: len(few)] - keras).max())
    if off > AGREEMENT:
        raise RuntimeError(f"the float32 export differs from Keras by {off:.3g}")
    flat = to_tflite(model, quantized=True)
    began = time.perf_counter()
    found = run_tflite_all(flat, windows, "frames,dims")
    spent = 1000 * (time.perf_counter() - began) / len(windows)
    n = len(LABELS)
    held_out, meant = found[:, :n].argmax(axis=1), exact[:, :n].argmax(axis=1)
    return Exported(
        model=flat,
        difference=float(np.abs(found - exact).max()),
        changed=float((held_out != meant).mean()),
        lost=float((meant == truth).mean() - (held_out == truth).mean()),
        milliseconds=spent,
    )


def real_windows(
    training_set: HeadTrainingSet, spec: FeatureSpec, count: int, seed: int
) -> tuple[Samples, NDArray[np.int64]]:
    """First windows of `count` random clips, (n, frames, dims), normalized, and their labels."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(
        rng.choice(len(training_set.clips), min(count, len(training_set.clips)), False)
    )
    core = make_core(spec, Banks.from_librosa(spec))
    mean, std = statistics(spec.dims)
    grid = WindowGrid(spec.window, spec.hop)
    found = []
    for i in chosen:
        samples = load(training_set.clips[i], spec.sample_rate)
        _, window = next(windows_of(samples, grid))
        found.append(normalize(core.extract(window), mean, std, spec.eps))
    return np.array(found, np.float32), training_set.truth[chosen]


def build(
    window_sums: WindowSums,
    figures: Figures,
    weights: Weights,
    spec: FeatureSpec,
    out: Path,
    *,
    name: str,
    licence: tuple[str, str],
    golden: Samples,
    command: str,
    seed: int,
) -> tuple[Bundle, Exported]:
    """Fit the head on all clips and write the bundle.

    Args:
        licence: SPDX identifier and text.
        golden: one window of sound for the self-test, (spec.window,).
        command: command that makes the bundle.
    """
    training_set, recipe = window_sums.training_set, window_sums.recipe
    everything = sorted(set(training_set.corpus.tolist())), sorted(set(window_sums.fold.tolist()))
    head = heads.fit_head(window_sums, *everything)
    windows, truth = real_windows(training_set, spec, SAMPLE, seed)
    exported = export(weights, head, spec, windows, truth)
    log.info(
        "%d bytes, %.1f ms, %.2f %% of the labels changed by 8 bits",
        *(len(exported.model), exported.milliseconds, 100 * exported.changed),
    )
    bundle = write_bundle(
        out,
        name=name,
        model=exported.model,
        labels=LABELS,
        spec=spec,
        layout="frames,dims",
        output="probabilities",
        speech_output=True,
        stats=statistics(spec.dims),
        golden_audio=golden,
        card=card(name, training_set, recipe, figures, exported, licence[0], command),
        licence=licence[1],
        licence_id=licence[0],
        calibration=figures.parameters.calibration,
        decision=figures.parameters.decision,
        provenance={
            "command": command,
            "seed": seed,
            "corpora": sorted(set(training_set.corpus.tolist())),
            "clips": len(training_set.clips),
            "encoder": "Whisper base (multilingual), layers 1 to 3, MIT",
            "recipe": {
                k: list(v) if isinstance(v, tuple) else v
                for k, v in dataclasses.asdict(recipe).items()
            },
            "quantized": True,
        },
    )
    return bundle, exported


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
    speakers = len(set(training_set.speaker.tolist()))
    corpora = ", ".join(sorted(set(training_set.corpus.tolist())))
    decision = figures.parameters.decision
    facts = {
        "Input": "windows of 3 s every 0.5 s at 16 kHz: 300 frames of 80 log-mel bands, dB below "
        "the window's maximum",
        "Network": "convolutions and the lowest three layers of Whisper base (multilingual, MIT), "
        "not changed; the mean over the frames of speech of "
        f"{', '.join(recipe.statistics)}; one linear head. 8-bit weights, "
        f"{len(exported.model) / 1e6:.1f} MB, {exported.milliseconds:.1f} ms a window on one "
        "thread of the machine that built it. 8 bits change "
        f"{100 * exported.changed:.1f} % of the labels of {SAMPLE} real windows and cost "
        f"{100 * exported.lost:.1f} points of accuracy",
        "Trained on": f"{len(training_set.clips)} clips of {speakers} speakers of {corpora}, "
        f"clean and in {recipe.copies} simulated recording{'s' * (recipe.copies != 1)}",
        "Operating point": f"`min_utterance_confidence = {decision.min_utterance_confidence:g}`: "
        f"the lowest at which at most {MAX_FALSE:g} of 100 neutral utterances get an emotional "
        f"label, mean of the corpora with all labels ({', '.join(complete(training_set))}), each "
        "left out of training",
    }
    few = len(set(training_set.corpus.tolist())) <= FEW_CORPORA
    if few:
        facts["Calibration"] = FEW_CORPORA_NOTE
    return (
        "\n\n".join(
            [
                f"# Model card: {name}",
                f"Labels: {', '.join(LABELS)}. Licence: {licence}.",
                "\n".join(f"- **{key}:** {value}" for key, value in facts.items()),
                PURPOSE.strip(),
                *(["## Licence", CARD_TEXTS[licence]] if licence in CARD_TEXTS else []),
                "## Figures",
                "Per cent, of utterances; 95 % intervals by a bootstrap over speakers. Acted "
                "speech, but for the commands of EMOSPEECH. Made by:",
                f"    {command}",
                *(
                    [
                        "**Other corpora** (the bundle's own head, temperatures and threshold; no "
                        "clip of these corpora was used for any of them, but if the recipe was "
                        "chosen on them, the figures are slightly too good; choose by these)",
                        markdown(figures.others),
                    ]
                    if figures.others
                    else []
                ),
                "**New corpora** (each left out of training"
                f"{'' if figures.others else '; choose by these'})",
                markdown(figures.left_out),
                "**New speakers, known corpora** (5 speaker-independent folds; the temperatures "
                "are those of the corpora left out)",
                markdown(figures.new_speakers),
                "**False labels against emotions found** (mean of the corpora with all labels, "
                "each left out)",
                curve_markdown(figures.curve),
                *(
                    [
                        "**The same on the other corpora** that have all labels (for information: "
                        "the threshold was not chosen by it)",
                        curve_markdown(figures.others_curve),
                    ]
                    if figures.others_curve
                    else []
                ),
            ]
        )
        + "\n"
    )


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


def curve_markdown(rows: Sequence[Mapping[str, float]]) -> str:
    """A `held_out.curve` as a Markdown table, every fifth row."""
    lines = [
        "| threshold | labelled | of 100 neutral, emotional label | of 100 emotional, found |",
        "|---|---|---|---|",
    ]
    for row in rows[::5]:
        lines.append(
            f"| {row['threshold']:.2f} | {100 * row['coverage']:.0f} | "
            f"{row['false_per_100']:.1f} | {row['found_per_100']:.1f} |"
        )
    return "\n".join(lines)
