"""The model bundle: a folder with all that maps a window of sound to probabilities.

`bundle.toml` lists the labels, the feature spec, the layout of the model's input, calibration
and decision parameters, and the SHA-256 of every other file. `model.tflite` is the network,
`stats.npz` the normalization statistics, `banks.npz` librosa's filter banks for the spec,
`golden.npz` a window of sound with its expected features and probabilities (golden vectors).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import reprlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speech_emotion.common.bundle.arrays import read_npz
from speech_emotion.common.bundle.spec import FeatureSpec, read_toml
from speech_emotion.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("bundle")

FORMAT = 1
MANIFEST = "bundle.toml"
LAYOUTS = ("frames,dims,1", "frames,dims", "dims,frames", "dims,frames,1", "dims")
"""Axes of the model's input after the batch axis of 1; `dims` alone is the average over time."""
OUTPUTS = ("probabilities", "logits")
REQUIRED_FILES = ("model.tflite", "stats.npz", "banks.npz", "golden.npz")
MAX_FILE_NAME = 100
MAX_SCORE = 1000.0
"""Largest magnitude of a relative score in a manifest."""
RESERVED_LABELS = ("speech", "silence", "gap", "uncertain")
"""States of a window, and the result without a label; a label must not look like one."""
GOLDEN_TOLERANCE = 1e-3
"""Largest difference, absolute and relative, from the features in golden.npz."""
OUTPUT_TOLERANCE = 0.02
"""Largest difference from the model outputs in golden.npz.

8-bit kernels round activations differently: with `models/default` two runtimes on one processor
differ by up to 0.007 in a probability.
"""

RELATIVE_TOLERANCE = 0.25
"""The same for the relative scores. They are no probabilities: their spread is some units."""

T = TypeVar("T", bound="Calibration | Decision | Baseline")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Temperatures (Guo et al., 2017) that calibrate probabilities.

    Applied to the model's output per window, to the smoothed probabilities, and to the
    average over an utterance.
    """

    temperature: float = 1.0
    smoothed_temperature: float = 1.0
    utterance_temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Decision:
    """Parameters of the decision from probabilities to a label.

    Attributes:
        smoothing: weight of the newest speech window in the exponential average.
        hysteresis: how far another label must lead before the published one changes.
        min_confidence: below it a window is `uncertain` (`low_margin`).
        min_utterance_confidence: the same for an utterance.
        min_speech: a window whose smoothed probability of speech is below it is `uncertain`
            (`not_speech`); only for models with `speech_output`.
        min_utterance_speech: the same for the average over an utterance.
        min_windows: speech windows an utterance needs before a label is given (`too_short`).
        too_quiet_dbfs: speech windows below it are `uncertain` (`too_quiet`).
        clipped_fraction: share of clipped samples from which a window is `clipped`.
    """

    smoothing: float = 0.5
    hysteresis: float = 0.05
    min_confidence: float = 0.0
    min_utterance_confidence: float = 0.0
    min_speech: float = 0.0
    min_utterance_speech: float = 0.0
    min_windows: int = 1
    too_quiet_dbfs: float = -80.0
    clipped_fraction: float = 0.05


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Parameters of a stream's baseline, for models with `relative_output`: `infer/baseline.py`.

    Attributes:
        prior: mean of the relative scores over the training corpora, one per label.
        bias: added to the scores after the baseline was subtracted, one per label.
        prior_s: seconds of speech at which the stream's mean has half the weight against `prior`.
        trust: largest weight of the relative scores against the others.
        evidence_s: seconds of speech at which half of `trust` is reached.
        memory_s: speech loses its weight with this time constant, in seconds of later speech.
        temperature: of the blended scores at full evidence; `calibration.temperature` without any.
    """

    prior: tuple[float, ...]
    bias: tuple[float, ...]
    prior_s: float = 10.0
    trust: float = 0.4
    evidence_s: float = 20.0
    memory_s: float = 600.0
    temperature: float = 1.0


_RANGES: dict[str, tuple[float, float]] = {
    "prior_s": (0.0, 3600.0),
    "trust": (0.0, 1.0),
    "evidence_s": (0.5, 3600.0),
    "memory_s": (10.0, 36000.0),
    "temperature": (0.05, 100.0),
    "smoothed_temperature": (0.05, 100.0),
    "utterance_temperature": (0.05, 100.0),
    "smoothing": (0.01, 1.0),
    "hysteresis": (0.0, 1.0),
    "min_confidence": (0.0, 1.0),
    "min_utterance_confidence": (0.0, 1.0),
    "min_speech": (0.0, 1.0),
    "min_utterance_speech": (0.0, 1.0),
    "min_windows": (1, 100),
    "too_quiet_dbfs": (-100.0, 0.0),
    "clipped_fraction": (0.0, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle with a valid manifest, whose files have the hashes listed in it.

    `speech_output`: behind the labels, the model's output has a value that tells speech from
    other sounds, a probability or a logit as the labels' are.
    `baseline`: behind that, the output has a relative score for each label, see `Baseline`; None
    where it has none.
    """

    path: Path
    name: str
    digest: str
    labels: tuple[str, ...]
    spec: FeatureSpec
    layout: str
    output: str
    calibration: Calibration
    decision: Decision
    speech_output: bool = False
    baseline: Baseline | None = None
    display_path: Path | None = None
    """The folder that the user named, where this bundle is a copy of it."""

    def display(self, file: str = "") -> Path:
        """Path of a file of the bundle for messages, below the folder that the user named."""
        return (self.display_path or self.path) / file

    @property
    def outputs(self) -> int:
        """Number of values that the model outputs for a window."""
        relative = 0 if self.baseline is None else len(self.labels)
        return len(self.labels) + self.speech_output + relative

    @property
    def id(self) -> str:
        """`name@first 8 hex of the manifest's hash`; the manifest holds every file's hash."""
        return f"{self.name}@{self.digest[:8]}"

    @property
    def model(self) -> Path:
        return self.path / "model.tflite"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the model's input, batch included."""
        axes = {"frames": self.spec.n_frames, "dims": self.spec.dims, "1": 1}
        return (1, *(axes[axis] for axis in self.layout.split(",")))

    def arrays(self, file: str) -> dict[str, NDArray[np.generic]]:
        """The arrays of one of the bundle's npz files.

        Raises:
            UserError: the file is not a readable npz archive.
        """
        try:
            return read_npz(self.path / file)
        except ValueError as error:
            raise UserError(
                f"{self.display(file)}: is not a readable npz file ({error}); rebuild the bundle"
            ) from None


def load_bundle(path: Path, display_path: Path | None = None) -> Bundle:
    """Read and verify a bundle folder.

    Args:
        display_path: the folder that errors name; default: `path`.

    Raises:
        UserError: the folder, a file or a key is missing or wrong, or a hash differs.
    """
    manifest = path / MANIFEST
    shown = display_path or path
    if not path.is_dir():
        raise UserError(f"{shown}: no such bundle folder; `models/default` is the shipped one")
    if not manifest.is_file():
        raise UserError(f"{shown}: is not a bundle, it has no {MANIFEST}")
    table = read_toml(manifest)
    where = str(shown / MANIFEST)
    if table.get("format") != FORMAT:
        raise UserError(
            f"{where}: format = {reprlib.repr(table.get('format'))} is not supported; "
            f"allowed: {FORMAT}"
        )
    known = {
        *("format", "name", "labels", "licence", "features"),
        *("input", "output", "speech_output", "relative_output"),
        *("calibration", "decision", "baseline", "files", "provenance"),
    }
    if unknown := sorted(set(table) - known):
        raise UserError(f"{where}: {unknown[0][:60]} is not a key of a bundle")
    _verify_files(path, shown, _table(table, "files", where), where)
    layout = _table(table, "input", where).get("layout")
    if layout not in LAYOUTS:
        raise UserError(
            f"{where}: input.layout = {reprlib.repr(layout)} must be one of {'; '.join(LAYOUTS)}"
        )
    output = table.get("output", "probabilities")
    if output not in OUTPUTS:
        raise UserError(
            f"{where}: output = {reprlib.repr(output)} must be one of {', '.join(OUTPUTS)}"
        )
    labels = _labels(table.get("labels"), where)
    return Bundle(
        path=path,
        name=_name(table.get("name"), where),
        digest=_sha256(manifest),
        labels=labels,
        spec=FeatureSpec.from_table(_table(table, "features", where), where),
        layout=layout,
        output=output,
        calibration=_numbers(Calibration, table.get("calibration", {}), "calibration", where),
        decision=_numbers(Decision, table.get("decision", {}), "decision", where),
        speech_output=_flag(table, "speech_output", where),
        baseline=_baseline(table, len(labels), where),
        display_path=display_path,
    )


def warn_without_baseline(bundle: Bundle) -> None:
    """Write a line where a user asked for a baseline that the bundle cannot have."""
    if bundle.baseline is None:
        log.warning(
            "baseline: off, because %s has none; its model gives no relative scores", bundle.id
        )


def copy_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """Copy the bundle to `folder`, which must not exist yet, and verify the copy.

    A stage that restarts after months then reads the bundle with which the pipeline started,
    even if the original was changed or removed.

    Raises:
        UserError: the copy cannot be written, or the original changed meanwhile.
    """
    try:
        folder.mkdir(mode=0o700)
        for file in (MANIFEST, *read_toml(bundle.path / MANIFEST)["files"]):
            shutil.copyfile(bundle.path / file, folder / file)
    except OSError as error:
        raise UserError(f"{folder}: the bundle cannot be copied ({error.strerror})") from None
    return load_bundle(folder, bundle.display())


def _table(table: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        raise UserError(f"{where}: has no [{key}] table")
    return value


def _name(name: object, where: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", name):
        raise UserError(
            f"{where}: name = {reprlib.repr(name)} must be 1 to 40 of a-z, 0-9, _ and -"
        )
    return name


def _labels(labels: object, where: str) -> tuple[str, ...]:
    if (
        not isinstance(labels, list)
        or not 2 <= len(labels) <= 64
        or not all(isinstance(label, str) and 0 < len(label) <= 40 for label in labels)
        or not all(label.isprintable() and label == label.strip() for label in labels)
        or len(set(labels)) != len(labels)
        or any(label.casefold() in RESERVED_LABELS for label in labels)
    ):
        raise UserError(
            f"{where}: labels = {reprlib.repr(labels)} must be 2 to 64 different printable words "
            f"of up to 40 characters, none of {', '.join(RESERVED_LABELS)}"
        )
    return tuple(labels)


def _flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} = {reprlib.repr(value)} must be true or false")
    return value


def _baseline(table: Mapping[str, Any], labels: int, where: str) -> Baseline | None:
    relative, values = _flag(table, "relative_output", where), table.get("baseline")
    if relative != (values is not None):
        raise UserError(
            f"{where}: relative_output = true and a [baseline] table belong together, "
            f"{'the table' if relative else 'relative_output'} is missing"
        )
    if values is None:
        return None
    if not isinstance(values, dict):
        raise UserError(f"{where}: baseline must be a table")
    values = dict(values)
    vectors = {key: _vector(values.pop(key, None), labels, key, where) for key in ("prior", "bias")}
    return _numbers(Baseline, values, "baseline", where, **vectors)


def _vector(value: object, labels: int, key: str, where: str) -> tuple[float, ...]:
    if (
        not isinstance(value, list)
        or len(value) != labels
        or not all(type(x) in (int, float) and abs(x) <= MAX_SCORE for x in value)
    ):
        raise UserError(
            f"{where}: baseline.{key} = {reprlib.repr(value)} must be one number for each of the "
            f"{labels} labels, between {-MAX_SCORE:g} and {MAX_SCORE:g}"
        )
    return tuple(float(x) for x in value)


def _numbers(cls: type[T], table: object, name: str, where: str, **fixed: Any) -> T:
    if not isinstance(table, dict):
        raise UserError(f"{where}: {name} must be a table")
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in fixed}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in defaults:
            raise UserError(
                f"{where}: {name}.{key[:60]} is not a key; allowed: {', '.join(defaults)}"
            )
        low, high = _RANGES[key]
        whole = isinstance(defaults[key], int)
        ok = type(value) is int or (type(value) is float and not whole)
        if not ok or not low <= value <= high:
            raise UserError(
                f"{where}: {name}.{key} = {reprlib.repr(value)} must be {low} to {high}"
            )
        values[key] = value if whole else float(value)
    return cls(**values, **fixed)


def _verify_files(path: Path, shown: Path, files: Mapping[str, Any], where: str) -> None:
    for required in REQUIRED_FILES:
        if required not in files:
            raise UserError(f"{where}: files names no {required}")
    for file, expected in files.items():
        if "/" in file or file in ("", ".", "..", MANIFEST) or len(file) > MAX_FILE_NAME:
            raise UserError(f"{where}: files.{file[:60]} is not the name of a file in the bundle")
        if not _is_file(path / file):
            raise UserError(f"{shown / file}: missing, though {MANIFEST} names it")
        if _sha256(path / file) != expected:
            raise UserError(
                f"{shown / file}: SHA-256 differs from the one in {MANIFEST}; "
                "the file is damaged or was changed, restore or rebuild the bundle"
            )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return False


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
