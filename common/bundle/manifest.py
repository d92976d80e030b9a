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
from speech_emotion.common.bundle.baseline import Baseline, read_baseline
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

T = TypeVar("T", bound="Calibration | Decision")


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


_RANGES: dict[str, tuple[float, float]] = {
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
    `baseline`: behind that, the output has a relative score for each label; None: it has none.
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
    def neutral(self) -> int | None:
        """Index of the label `neutral`; None without one."""
        return self.labels.index("neutral") if "neutral" in self.labels else None

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
        *("input", "output", "speech_output", "calibration", "decision", "files", "provenance"),
        *("relative_output", "baseline"),
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
    speech_output = table.get("speech_output", False)
    if not isinstance(speech_output, bool):
        raise UserError(
            f"{where}: speech_output = {reprlib.repr(speech_output)} must be true or false"
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
        speech_output=speech_output,
        baseline=read_baseline(table, len(labels), where),
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


def _numbers(cls: type[T], table: object, name: str, where: str) -> T:
    if not isinstance(table, dict):
        raise UserError(f"{where}: {name} must be a table")
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
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
    return cls(**values)


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
