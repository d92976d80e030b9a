"""Make the bundle of a training job: train on all clips, calibrate on the folds, export, write."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.features.core import normalize
from speech_emotion.train.bundle.card import licence_text, model_card
from speech_emotion.train.bundle.writer import run_tflite_all, write_bundle
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.model.export import export_model, to_tflite
from speech_emotion.train.model.fit import TrainedModel, fit
from speech_emotion.train.model.fold_outputs import run_key
from speech_emotion.train.model.training_job import TrainingJob

log = logging.getLogger("train")

AGREEMENT = 1e-3
"""Largest allowed difference of a probability between Keras and the float32 export."""
SAMPLE = 500
"""Number of training windows on which exports are compared."""
QUANTIZED_LOSS = 0.005
"""Largest share of changed labels for which the quantized export is chosen."""


@dataclasses.dataclass(frozen=True)
class Exports:
    """Both exports of a model, and their differences from Keras on training windows.

    Attributes:
        chosen: `float32` or `quantized`.
        models: name → flatbuffer.
        difference: name → largest difference of a probability.
        changed: name → share of the windows whose label differs.
        milliseconds: name → mean CPU time of a window, one thread, on this machine.
    """

    chosen: str
    models: dict[str, bytes]
    difference: dict[str, float]
    changed: dict[str, float]
    milliseconds: dict[str, float]


def fit_all(job: TrainingJob) -> TrainedModel:
    """A model trained on all clips, with as many steps as the folds."""
    all_clips = np.arange(len(job.training_set.clips))
    folder = job.work / run_key(job.training_set, job.plan.recipe, job.seed)
    return fit(
        job.training_set,
        all_clips,
        job.plan.recipe,
        seed=job.seed,
        checkpoint=folder / "all.npz",
        soft=job.soft("all", all_clips),
    )


def export(trained: TrainedModel, x: NDArray[np.floating]) -> Exports:
    """Convert a model, compare the exports with Keras, and choose one.

    Args:
        x: features (n, frames, dims) before normalization.

    Raises:
        RuntimeError: the float32 export differs from Keras by more than `AGREEMENT`.
    """
    model = export_model(trained.model, speech=trained.speech)
    normalized = normalize(x.astype(np.float32), trained.mean, trained.std, trained.eps)
    expected = trained.outputs(x)
    models = {
        "float32": to_tflite(model),
        "quantized": to_tflite(model, quantized=True),
    }
    labels = expected.shape[1] - trained.speech
    difference, changed, milliseconds = {}, {}, {}
    for name, flat in models.items():
        began = time.thread_time()
        outputs = run_tflite_all(flat, normalized, "frames,dims,1")
        milliseconds[name] = 1000 * (time.thread_time() - began) / len(normalized)
        difference[name] = float(np.abs(outputs - expected).max())
        predicted = [each[:, :labels].argmax(axis=1) for each in (outputs, expected)]
        changed[name] = float((predicted[0] != predicted[1]).mean())
        log.info(
            "%s: %d bytes, largest difference %.2g, %.2f %% of the labels differ",
            *(name, len(flat), difference[name], 100 * changed[name]),
        )
    if difference["float32"] > AGREEMENT:
        raise RuntimeError(f"the float32 export differs from Keras by {difference['float32']:.3g}")
    smaller = len(models["quantized"]) < len(models["float32"])
    chosen = "quantized" if smaller and changed["quantized"] <= QUANTIZED_LOSS else "float32"
    return Exports(chosen, models, difference, changed, milliseconds)


def build_bundle(
    job: TrainingJob,
    tuned: Bundle,
    figures: str,
    path: Path,
    *,
    name: str,
    calibrated: str,
    command: str,
    figures_command: str,
    golden: Samples,
    chosen: str = "auto",
) -> Bundle:
    """Train on all clips and write the bundle.

    Args:
        tuned: a bundle without files: temperatures, thresholds and operating points.
        figures: Markdown for the card.
        path: the bundle's folder.
        name: of the bundle.
        calibrated: what `tuned` was fitted on, for the card.
        command: command that makes the bundle.
        figures_command: command that made the figures.
        golden: one window of sound for the self-test, (spec.window,).
        chosen: `float32`, `quantized`, or `auto`: quantized if it changes few labels.
    """
    trained = fit_all(job)
    clean = job.training_set.examples[0]
    rng = np.random.default_rng(job.seed)
    real = clean.x[np.sort(rng.choice(len(clean.x), min(SAMPLE, len(clean.x)), replace=False))]
    exports = export(trained, real)
    kind = exports.chosen if chosen == "auto" else chosen
    spec, recipe = job.plan.spec, job.plan.recipe
    clips = job.training_set.clips
    corpora = sorted({c.corpus for c in clips})
    speech = "actors in studios"
    if "EMOSPEECH" in corpora:
        speech = "acted speech, but for the commands of EMOSPEECH"
    weights = sum(int(np.prod(w.shape)) for w in export_model(trained.model).weights)
    facts = {
        "Input": f"windows of {spec.window_s:g} s every {spec.hop_s:g} s at {spec.sample_rate} Hz; "
        f"{spec.n_frames} frames of {spec.dims} features ({_features(spec)}); gate `{spec.gate}`",
        "Network": f"convolutions {', '.join(map(str, recipe.network.channels))}, "
        f"{weights} parameters, shipped as {kind} TFLite, {len(exports.models[kind])} bytes "
        f"(largest difference from Keras {exports.difference[kind]:.1e}, "
        f"{100 * exports.changed[kind]:.1f} % of labels differ, on {len(real)} real windows), "
        f"{exports.milliseconds[kind]:.2f} ms of CPU time a window, one thread of the machine "
        "that built it",
        "Trained on": f"{len(job.labelled)} labelled clips of {len(set(job.speaker.tolist()))} "
        f"speakers of {', '.join(corpora)}, {speech}; every one of these speakers was used, so "
        "the figures below come from models trained without the speakers they were "
        "measured on, by the same recipe",
        "Steps": f"{recipe.steps} of {recipe.batch} windows, fixed beforehand; seed {job.seed}",
        "Calibration": calibrated,
    }
    if job.taught is not None:
        facts["Teacher"] = (
            "linear heads on the lower layers of Whisper base, as in `default`; their "
            f"probabilities are {100 * recipe.distil:g} % of the targets. The head that taught a "
            "clip was not trained on its speaker, and no teacher of a model that was measured was "
            "trained on a corpus or speaker that this model was measured on"
        )
    if recipe.noise:
        facts["Without speech"] = (
            f"{100 * recipe.noise:g} % of every batch is noise, hum, clicks and tones (and, where "
            "`--noise` was given, music and sounds), for which every label is equally likely"
        )
    card = model_card(
        name,
        job.labels,
        licence=job.plan.licence,
        facts=facts,
        figures=figures,
        command=figures_command,
    )
    return write_bundle(
        path,
        name=name,
        model=exports.models[kind],
        labels=job.labels,
        spec=spec,
        layout="frames,dims,1",
        output="probabilities",
        speech_output=trained.speech,
        stats=(trained.mean, trained.std),
        golden_audio=golden,
        card=card,
        licence=licence_text(job.plan.licence, corpora, taught=job.taught is not None),
        licence_id=job.plan.licence,
        calibration=tuned.calibration,
        decision=tuned.decision,
        sensitivity=tuned.sensitivity,
        provenance={
            "command": command,
            "seed": job.seed,
            "corpora": corpora,
            "clips": len(clips),
            "recipe": _plain(dataclasses.asdict(recipe)),
            "quantized": kind == "quantized",
        },
    )


def _features(spec: FeatureSpec) -> str:
    parts = [f"n_fft {spec.n_fft}, hop {spec.hop_length}"]
    if spec.n_mfcc:
        parts.append(f"{spec.n_mfcc} MFCC")
    if spec.chroma:
        parts.append("chroma")
    if spec.n_mels:
        parts.append(f"{spec.n_mels} mels as `{spec.mel}`")
    return ", ".join(parts)


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {
        k: _plain(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v
        for k, v in table.items()
    }
