"""Outputs of a model with relative scores for the windows of a corpus that it has not heard."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.baseline import Baseline, read_baseline
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.parameters import Calibration, Decision
from speech_emotion.common.errors import UserError
from speech_emotion.train.model.whisper.discriminant import softmax

Matrix = NDArray[np.float64]
Index = NDArray[np.int64]

KEYS = ("labels", "corpus", "speaker", "clip", "label", "cold", "speech", "relative")


@dataclasses.dataclass(frozen=True)
class WindowOutputs:
    """The windows with speech of one corpus, sorted by clip.

    Attributes:
        name: of the corpus.
        labels: in the order of all label axes.
        cold: log probabilities of the labels, (windows, labels).
        relative: relative scores less their prior, (windows, labels).
        evidence: the window counts for a baseline, (windows,).
        clip: number of the window's clip, 0 to clips - 1, (windows,).
        truth: label of each clip, (clips,).
        speaker: number of each clip's speaker, 0 to speakers - 1, (clips,).
        twin: the same clip through another microphone, (clips,); -1 without one.
        plain: the clip is no such twin, (clips,).
        bias: of the relative scores, (labels,).
        growth: factor of each window's temperature, (windows,).
        probabilities: what the baseline counts, `infer.decision.cold_probabilities`.
    """

    name: str
    labels: tuple[str, ...]
    cold: Matrix
    relative: Matrix
    evidence: NDArray[np.bool_]
    clip: Index
    truth: Index
    speaker: Index
    twin: Index
    plain: NDArray[np.bool_]
    bias: Matrix
    growth: Matrix
    probabilities: Matrix

    @property
    def clips(self) -> int:
        return len(self.truth)

    def windows_of(self, clips: Index) -> Index:
        """The windows of some clips, clip by clip."""
        begins = np.searchsorted(self.clip, clips)
        ends = np.searchsorted(self.clip, clips, side="right")
        return np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])


@dataclasses.dataclass(frozen=True)
class Parameters:
    """What a bundle does with the outputs.

    Attributes:
        baseline: its `prior` and `bias` are not used: the outputs have their own.
        calibration: its temperatures; that of an utterance is applied to its mean probabilities.
        decision: from `min_speech` on a window counts for a baseline; its bias and
            `min_utterance_confidence` give an utterance its label.
    """

    baseline: Baseline
    calibration: Calibration = dataclasses.field(default_factory=Calibration)
    decision: Decision = dataclasses.field(default_factory=lambda: Decision(min_speech=0.7))


def parameters(folder: Path | None, settings: Sequence[str]) -> Parameters:
    """The parameters of a bundle, or the defaults, with `settings` such as `trust=0.5`.

    Raises:
        UserError: the bundle is not valid, or a setting is no number of [baseline].
    """
    nothing: tuple[float, ...] = (0.0,) * 4
    found = Parameters(Baseline(nothing, nothing))
    if folder is not None:
        bundle = load_bundle(folder)
        usual = bundle.baseline or found.baseline
        found = Parameters(usual, bundle.calibration, bundle.decision)
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            values[key] = float(value)
        except ValueError:
            raise UserError(f"--set {setting}: must be KEY=NUMBER") from None
    table = {**dataclasses.asdict(found.baseline), **values}
    table |= {key: list(table[key]) for key in ("prior", "bias")}
    whole = {"relative_output": True, "baseline": table}
    baseline = read_baseline(whole, len(found.baseline.prior), "--set")
    assert baseline is not None
    return dataclasses.replace(found, baseline=baseline)


def read_outputs(
    files: Sequence[Path], min_speech: float, calibration: Calibration | None = None
) -> list[WindowOutputs]:
    """Read npz files of window outputs; one item per corpus and file.

    Args:
        min_speech: probability of speech from which a window counts for a baseline.
        calibration: of the windows; None: temperature 1.

    Raises:
        UserError: a file is missing, damaged, or lacks a key.
    """
    return [corpus for file in files for corpus in _read(file, min_speech, calibration)]


def _read(file: Path, min_speech: float, calibration: Calibration | None) -> list[WindowOutputs]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            table = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: is not a readable npz file ({error})") from None
    for key in (*KEYS, "prior", "bias"):
        if key not in table:
            raise UserError(f"{file}: has no array {key}; needed: {', '.join(KEYS)}, prior, bias")
    n, labels = len(table["clip"]), len(table["labels"])
    for key in ("cold", "relative"):
        if table[key].shape != (n, labels):
            raise UserError(f"{file}: {key} has shape {table[key].shape}, not {(n, labels)}")
    names = sorted(set(table["corpus"].tolist()))
    to = calibration or Calibration()
    return [_corpus(name, table, min_speech, to) for name in names]


def _corpus(
    name: str, table: dict[str, NDArray[Any]], min_speech: float, calibration: Calibration
) -> WindowOutputs:
    rows = np.flatnonzero(table["corpus"] == name)
    rendering = table.get("rendering", np.zeros(len(table["clip"]), np.int8)).astype(np.int64)
    number = 2 * table["clip"].astype(np.int64) + (rendering > 0)
    rows = rows[np.argsort(number[rows], kind="stable")]
    clips, first, clip = np.unique(number[rows], return_index=True, return_inverse=True)
    place = {int(clip): k for k, clip in enumerate(clips)}
    cold = np.log(np.maximum(table["cold"][rows].astype(np.float64), 1e-12))
    distance = table.get("distance", np.ones(len(table["clip"])))
    # A prior per window belongs to the model of the window's fold.
    prior = table["prior"] if table["prior"].ndim == 1 else table["prior"][rows]
    bias = table["bias"] if table["bias"].ndim == 1 else table["bias"][rows].mean(axis=0)
    growth = np.array([calibration.growth(d) for d in distance[rows].tolist()])
    return WindowOutputs(
        name=name,
        labels=tuple(table["labels"].tolist()),
        cold=cold,
        relative=table["relative"][rows].astype(np.float64) - prior,
        evidence=table["speech"][rows] >= min_speech,
        clip=clip.astype(np.int64).reshape(len(rows)),
        truth=table["label"][rows][first].astype(np.int64),
        speaker=np.unique(table["speaker"][rows][first], return_inverse=True)[1].reshape(
            len(clips)
        ),
        twin=np.array([-1 if clip % 2 else place.get(int(clip) + 1, -1) for clip in clips]),
        plain=clips % 2 == 0,
        bias=bias.astype(np.float64),
        growth=growth,
        probabilities=softmax(cold / calibration.temperature),
    )
