"""From a job to a bundle: train on everybody, calibrate on the folds, export, write."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.features.core import normalize
from speech_emotion.train.bundle.card import LICENCES, model_card
from speech_emotion.train.bundle.writer import run_tflite_all, write_bundle
from speech_emotion.train.data.clips import Samples
from speech_emotion.train.evaluation.crossval import key_of
from speech_emotion.train.evaluation.protocols import Folds, tune
from speech_emotion.train.model.export import shipped, to_tflite
from speech_emotion.train.model.fit import Fitted, fit
from speech_emotion.train.model.training_job import Job

log = logging.getLogger("train")

AGREEMENT = 1e-3
"""A float32 export may differ from Keras by so much in a probability."""
SAMPLE = 500
"""Real windows on which exports are compared."""
QUANTIZED_LOSS = 0.005
"""The quantized twin is shipped if it changes fewer labels than this share."""


@dataclasses.dataclass(frozen=True)
class Exports:
    """Both exports of a model, and how they compare on real windows.

    Attributes:
        chosen: `float32` or `quantized`.
        models: name → flatbuffer.
        difference: name → largest difference from Keras in a probability.
        changed: name → share of windows whose label differs from Keras's.
    """

    chosen: str
    models: dict[str, bytes]
    difference: dict[str, float]
    changed: dict[str, float]


def fit_all(job: Job) -> Fitted:
    """The model that is shipped: trained on every speaker, for as long as the folds were."""
    everybody = np.arange(len(job.material.clips))
    folder = job.work / key_of(job.material, job.plan.recipe, job.seed)
    return fit(
        job.material,
        everybody,
        job.plan.recipe,
        seed=job.seed,
        checkpoint=folder / "all.npz",
        soft=job.soft("all", everybody),
    )


def export(fitted: Fitted, x: NDArray[np.floating]) -> Exports:
    """Convert, compare on real features (n, frames, dims), and choose the one to ship."""
    model = shipped(fitted.model, speech=fitted.speech)
    normalized = normalize(x.astype(np.float32), fitted.mean, fitted.std, fitted.eps)
    keras = fitted.outputs(x)
    models = {
        "float32": to_tflite(model),
        "quantized": to_tflite(model, quantized=True),
    }
    labels = keras.shape[1] - fitted.speech
    difference, changed = {}, {}
    for name, flat in models.items():
        found = run_tflite_all(flat, normalized, "frames,dims,1")
        difference[name] = float(np.abs(found - keras).max())
        said = [each[:, :labels].argmax(axis=1) for each in (found, keras)]
        changed[name] = float((said[0] != said[1]).mean())
        log.info(
            "%s: %d bytes, off by %.2g, %.2f %% of the labels differ",
            *(name, len(flat), difference[name], 100 * changed[name]),
        )
    if difference["float32"] > AGREEMENT:
        raise RuntimeError(f"the float32 export differs from Keras by {difference['float32']:.3g}")
    smaller = len(models["quantized"]) < len(models["float32"])
    chosen = "quantized" if smaller and changed["quantized"] <= QUANTIZED_LOSS else "float32"
    return Exports(chosen, models, difference, changed)


def build_bundle(
    job: Job,
    folds: Folds,
    figures: dict[str, Any],
    path: Path,
    *,
    name: str,
    command: str,
    figures_command: str,
    golden: Samples,
    chosen: str = "auto",
) -> Bundle:
    """Train on everybody and write the bundle.

    Args:
        folds: of the same recipe, for calibration.
        figures: for the card.
        command: that makes the bundle; `figures_command` the one that made the figures.
        golden: one window of sound for the self-test.
        chosen: `float32`, `quantized`, or `auto` to choose by agreement.
    """
    tuned = tune(job, folds)
    fitted = fit_all(job)
    clean = job.material.examples[0]
    rng = np.random.default_rng(job.seed)
    real = clean.x[np.sort(rng.choice(len(clean.x), min(SAMPLE, len(clean.x)), replace=False))]
    exports = export(fitted, real)
    kind = exports.chosen if chosen == "auto" else chosen
    spec, recipe = job.plan.spec, job.plan.recipe
    clips = job.material.clips
    corpora = sorted({c.corpus for c in clips})
    weights = sum(int(np.prod(w.shape)) for w in shipped(fitted.model).weights)
    facts = {
        "Input": f"windows of {spec.window_s:g} s every {spec.hop_s:g} s at {spec.sample_rate} Hz; "
        f"{spec.n_frames} frames of {spec.dims} features (n_fft {spec.n_fft}, hop "
        f"{spec.hop_length}, {spec.n_mels} mels as `{spec.mel}`)",
        "Network": f"convolutions {', '.join(map(str, recipe.network.channels))}, "
        f"{weights} parameters, shipped as {kind} TFLite, {len(exports.models[kind])} bytes "
        f"(largest difference from Keras {exports.difference[kind]:.1e}, "
        f"{100 * exports.changed[kind]:.1f} % of labels differ, on {len(real)} real windows)",
        "Trained on": f"{len(job.labelled)} labelled clips of {len(set(job.speaker.tolist()))} "
        f"speakers of {', '.join(corpora)}, actors in studios; every one of these speakers was "
        "heard, so the figures below come from models trained without the speakers they were "
        "measured on, by the same recipe",
        "Steps": f"{recipe.steps} of {recipe.batch} windows, fixed beforehand; seed {job.seed}",
        "Calibration": "temperatures and thresholds from the folds' "
        "speakers, each heard only by a model that had not been trained on them",
    }
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
        speech_output=fitted.speech,
        stats=(fitted.mean, fitted.std),
        golden_audio=golden,
        card=card,
        licence=LICENCES.get(job.plan.licence, job.plan.licence + "\n"),
        licence_id=job.plan.licence,
        calibration=tuned.calibration,
        decision=tuned.decision,
        provenance={
            "command": command,
            "seed": job.seed,
            "corpora": corpora,
            "clips": len(clips),
            "recipe": _plain(dataclasses.asdict(recipe)),
            "quantized": kind == "quantized",
        },
    )


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {
        k: _plain(v) if isinstance(v, dict) else list(v) if isinstance(v, tuple) else v
        for k, v in table.items()
    }
