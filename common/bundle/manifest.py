"""The model bundle: a folder with all that maps a window of sound to probabilities.

`bundle.toml` lists the labels, the feature spec, the layout of the model's input, calibration
and decision parameters, and the SHA-256 of every other file. `model.tflite` or `model.onnx` is
the network, `stats.npz` the normalization statistics, `banks.npz` librosa's filter banks for the
spec (none for a waveform), `golden.npz` a window of sound with its expected features and
probabilities (golden vectors).
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
from typing import TYPE_CHECKING, Any

from speech_emotion.common.bundle.arrays import read_npz
from speech_emotion.common.bundle.baseline import Baseline, read_baseline
from speech_emotion.common.bundle.dimensions import read_dimensions
from speech_emotion.common.bundle.parameters import (
    Calibration,
    Decision,
    read_decision,
    read_flag,
    read_numbers,
    read_operating_points,
)
from speech_emotion.common.bundle.personal import Personal, read_personal
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
WAVEFORM_LAYOUTS = ("samples", "1,samples", "samples,1")
"""The same for the samples of a window."""
OUTPUTS = ("probabilities", "logits")
MODEL_FILES = ("model.tflite", "model.onnx")
"""The network; a bundle has one of them."""
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


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle with a valid manifest, whose files have the hashes listed in it.

    `speech_output`: behind the labels, the model's output has a value that tells speech from
    other sounds, a probability or a logit as the labels' are.
    `distance_output`: behind that, the output has the distance of the window from the sounds that
    the model was trained on, 1 on average over these.
    `baseline`: behind that, the output has a relative score for each label; None: it has none.
    `dimensions`: behind that, the output has a value for each of these, which has no calibration.
    A bundle with dimensions may have no labels.
    `sensitivity`: the decisions of the operating points other than `medium`, by name.
    `personal`: the map that was fitted to labels of the bundle's users; None: it has none.
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
    distance_output: bool = False
    sensitivity: Mapping[str, Decision] = dataclasses.field(default_factory=dict)
    baseline: Baseline | None = None
    model_file: str = MODEL_FILES[0]
    personal: Personal | None = None
    dimensions: tuple[str, ...] = ()
    display_path: Path | None = None
    """The folder that the user named, where this bundle is a copy of it."""

    def display(self, file: str = "") -> Path:
        """Path of a file of the bundle for messages, below the folder that the user named."""
        return (self.display_path or self.path) / file

    def has(self, sensitivity: str) -> bool:
        """Whether the bundle holds this operating point; every bundle has `medium`."""
        return sensitivity == "medium" or sensitivity in self.sensitivity

    def at(self, sensitivity: str) -> Bundle:
        """The bundle at an operating point; unchanged if it does not hold that one."""
        decision = self.sensitivity.get(sensitivity, self.decision)
        return dataclasses.replace(self, decision=decision)

    @property
    def outputs(self) -> int:
        """Number of values that the model outputs for a window."""
        return self.relative_end + len(self.dimensions)

    @property
    def relative_end(self) -> int:
        """Index after the relative scores in the model's output."""
        relative = 0 if self.baseline is None else len(self.labels)
        return self.distance_at + self.distance_output + relative

    @property
    def distance_at(self) -> int:
        """Index of the distance in the model's output, where it has one."""
        return len(self.labels) + self.speech_output

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
        """The network: model.tflite or model.onnx."""
        return self.path / self.model_file

    @property
    def required_files(self) -> tuple[str, ...]:
        """The files that the stages read, beside the manifest."""
        return (self.model_file, *_arrays_of(self.spec))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the model's input, batch included."""
        return (1, *axes_of(self.layout, self.spec))

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


def layouts_of(spec: FeatureSpec) -> tuple[str, ...]:
    """The layouts that a model's input can have with a spec."""
    return WAVEFORM_LAYOUTS if spec.waveform else LAYOUTS


def axes_of(layout: str, spec: FeatureSpec) -> tuple[int, ...]:
    """Sizes of the axes of a layout, without the batch axis."""
    sizes = {"frames": spec.n_frames, "samples": spec.n_frames, "dims": spec.dims, "1": 1}
    return tuple(sizes[axis] for axis in layout.split(","))


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
        *("input", "output", "speech_output", "relative_output", "distance_output", "dimensions"),
        *("calibration", "decision", "sensitivity", "baseline", "personal"),
        *("files", "provenance"),
    }
    if unknown := sorted(set(table) - known):
        raise UserError(f"{where}: {unknown[0][:60]} is not a key of a bundle")
    files = _table(table, "files", where)
    _verify_files(path, shown, files, where)
    spec = FeatureSpec.from_table(_table(table, "features", where), where)
    layout, allowed = _table(table, "input", where).get("layout"), layouts_of(spec)
    if layout not in allowed:
        raise UserError(
            f"{where}: input.layout = {reprlib.repr(layout)} must be one of {'; '.join(allowed)}"
        )
    output = table.get("output", "probabilities")
    if output not in OUTPUTS:
        raise UserError(
            f"{where}: output = {reprlib.repr(output)} must be one of {', '.join(OUTPUTS)}"
        )
    dimensions = read_dimensions(table, where)
    labels = () if dimensions and table.get("labels") == [] else _labels(table.get("labels"), where)
    decision = table.get("decision", {})
    return Bundle(
        path=path,
        name=_name(table.get("name"), where),
        digest=_sha256(manifest),
        labels=labels,
        spec=spec,
        layout=layout,
        output=output,
        model_file=_model_file(files, spec, where),
        calibration=read_numbers(Calibration, table.get("calibration", {}), "calibration", where),
        decision=read_decision(decision, "decision", labels, where),
        speech_output=read_flag(table, "speech_output", where),
        distance_output=read_flag(table, "distance_output", where),
        sensitivity=read_operating_points(table.get("sensitivity", {}), decision, labels, where),
        baseline=read_baseline(table, len(labels), where),
        personal=read_personal(table, len(labels), files, where),
        dimensions=dimensions,
        display_path=display_path,
    )


def warn_without_baseline(bundle: Bundle) -> None:
    """Write a line where a user asked for a baseline that the bundle cannot have."""
    if bundle.baseline is None:
        log.warning(
            "baseline: off, because %s has none; its model gives no relative scores", bundle.id
        )


def warn_without_operating_point(bundle: Bundle, sensitivity: str) -> None:
    """Write a line where a user asked for an operating point that the bundle does not hold."""
    if not bundle.has(sensitivity):
        log.warning(
            "sensitivity: medium, because %s has no operating point %s", bundle.id, sensitivity
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


def _verify_files(path: Path, shown: Path, files: Mapping[str, Any], where: str) -> None:
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


def _arrays_of(spec: FeatureSpec) -> tuple[str, ...]:
    return ("stats.npz", *(() if spec.waveform else ("banks.npz",)), "golden.npz")


def _model_file(files: Mapping[str, Any], spec: FeatureSpec, where: str) -> str:
    for required in _arrays_of(spec):
        if required not in files:
            raise UserError(f"{where}: files names no {required}")
    models = [file for file in MODEL_FILES if file in files]
    if len(models) != 1:
        raise UserError(
            f"{where}: files names {' and '.join(models) or 'no model'}; "
            f"it must name {' or '.join(MODEL_FILES)}"
        )
    return models[0]


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
