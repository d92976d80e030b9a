"""Adapt a bundle to labels of its users, replace it if that is better, and undo it.

Only the manifest changes: it gets the table [personal], and so a new id. The manifest before stays
in the folder under a name with its id, listed like every other file, so that each version can be
restored bit for bit, and labels that an earlier version was given can still be used.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from speech_emotion.common.bundle.adapted import earlier_manifest
from speech_emotion.common.bundle.manifest import MANIFEST, Bundle, copy_bundle, load_bundle
from speech_emotion.common.bundle.personal import MAX_WEIGHT, Personal
from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.wire.public import Utterance
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.model import Model
from speech_emotion.infer.offline.analyzer import Analyzer, BaselineUse, analyse
from speech_emotion.infer.offline.sound import open_sound
from speech_emotion.train.personal.fit import (
    Comparison,
    Examples,
    Map,
    Vector,
    adapt,
    compare,
    predict_kept_back,
    scores_of,
)
from speech_emotion.train.personal.labels import Label, read_labels

FEWEST = 20
"""Labels below which nothing is fitted."""
FEWEST_OF_TWO = 4
"""Labels that at least two emotions must have."""
MOST_LABELS = 16
"""Labels of a bundle: the map has the square of their number of weights."""


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """What came of an adaptation.

    Attributes:
        bundle: the bundle now; unchanged if it was not replaced.
        counts: used labels by name.
        unusable: lines that could not be used, by cause.
        kept_back: the new map against the bundle without a map, on held-out labels.
        present: the new map on held-out labels against the bundle's present map; None without one.
        replaced: whether the bundle has the new map now.
    """

    bundle: Bundle
    counts: dict[str, int]
    unusable: dict[str, int]
    kept_back: Comparison
    present: Comparison | None
    replaced: bool


def adapt_bundle(folder: Path, file: Path, out: Path | None = None) -> Adaptation:
    """Fit a map to labels, and write it into the bundle if it is better on held-out labels.

    Args:
        folder: the bundle.
        file: the labels.
        out: folder for the adapted bundle, which must not exist; None: replace the manifest of
            `folder`.

    Raises:
        UserError: bundle, labels or `out` are not valid, or there are too few labels.
    """
    bundle = load_bundle(folder)
    if len(bundle.labels) > MOST_LABELS:
        raise UserError(f"{folder}: has {len(bundle.labels)} labels; allowed here: {MOST_LABELS}")
    if out is None and folder.resolve() == DEFAULT_BUNDLE.resolve():
        raise UserError(
            f"{folder}: is the shipped bundle, which an update replaces; "
            "name a folder for the adapted one with --out DIR"
        )
    if out is not None and out.exists():
        raise UserError(f"{out}: exists already; to adapt it again: --bundle {out}, without --out")
    examples, unusable = _examples(bundle, read_labels(file, bundle.labels))
    _check_enough(examples, unusable, bundle, file)
    own = Map.identity(len(bundle.labels)).probabilities(examples.scores)
    predicted = predict_kept_back(examples)
    kept_back, present = compare(examples.truth, own, predicted), None
    better = kept_back.better
    if bundle.personal is not None:
        now = _map_of(bundle.personal).probabilities(examples.scores)
        present = compare(examples.truth, now, predicted)
        better = better and present.after <= present.before
    if better:
        bundle = _write(bundle, adapt(examples), len(examples), out)
    names = collections.Counter(bundle.labels[k] for k in examples.truth)
    return Adaptation(bundle, dict(names), unusable, kept_back, present, replaced=better)


def roll_back(folder: Path) -> Bundle:
    """Restore the bundle as it was before its newest map.

    Raises:
        UserError: the bundle is not valid, or was not adapted.
    """
    bundle = load_bundle(folder)
    if bundle.personal is None:
        raise UserError(f"{folder}: has no map of labels; there is nothing to roll back")
    before = folder / bundle.personal.before
    _replace(folder, before.read_bytes())
    before.unlink()
    return load_bundle(folder)


def _check_enough(examples: Examples, unusable: dict[str, int], bundle: Bundle, file: Path) -> None:
    count = np.sort(np.bincount(examples.truth, minlength=len(bundle.labels)))
    if len(examples) >= FEWEST and count[-2] >= FEWEST_OF_TWO:
        return
    left_out = "".join(f"; {n} cannot be used: {cause}" for cause, n in unusable.items())
    raise UserError(
        f"{file}: has {len(examples)} usable labels, needed: {FEWEST}, and {FEWEST_OF_TWO} each of "
        f"two emotions; label more utterances, also those that are right{left_out}"
    )


def _examples(bundle: Bundle, labels: Sequence[Label]) -> tuple[Examples, dict[str, int]]:
    """The labels with the scores that the bundle without a map gives; unusable ones by cause."""
    maps = versions(bundle)
    scores: list[Vector] = []
    truth: list[int] = []
    unusable: collections.Counter[str] = collections.Counter()
    sound: Analysis | None = None
    for label in labels:
        row: Vector | None = None
        if label.bundle in maps and label.probabilities is not None:
            row = _own_scores(np.array(label.probabilities), maps[label.bundle], bundle)
        elif label.clip is not None:
            sound = sound or Analysis(bundle)
            row = sound.scores(label.clip)
        if row is not None:
            scores.append(row)
            truth.append(label.truth)
        else:
            unusable["another bundle" if label.clip is None else "no speech in the clip"] += 1
    found = np.array(scores).reshape(-1, len(bundle.labels))
    return Examples(found, np.array(truth, np.int64)), dict(unusable)


def versions(bundle: Bundle) -> dict[str, Map]:
    """Id → map, of the bundle and of all its earlier versions."""
    found = {}
    table, digest = read_toml(bundle.path / MANIFEST), bundle.digest
    while True:
        personal = table.get("personal")
        chosen = Map.identity(len(bundle.labels))
        if personal is not None:
            chosen = Map(np.array(personal["matrix"], float), np.array(personal["bias"], float))
        found[f"{bundle.name}@{digest[:8]}"] = chosen
        if personal is None:
            return found
        before = bundle.path / personal["before"]
        table, digest = read_toml(before), hashlib.sha256(before.read_bytes()).hexdigest()


def _map_of(personal: Personal) -> Map:
    return Map(np.array(personal.matrix), np.array(personal.bias))


def _own_scores(probabilities: Vector, given: Map, bundle: Bundle) -> Vector:
    """The scores of an utterance without a map, from its published probabilities.

    The map is applied to windows; for an utterance, the mean of windows, it is undone as if it had
    been applied to the mean.
    """
    mean = Map.identity(len(probabilities)).probabilities(
        bundle.calibration.utterance_temperature * scores_of(probabilities)
    )
    return given.undo(mean)


class Analysis:
    """Clips to scores, by the code that runs live, without a baseline and without a map."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = dataclasses.replace(bundle, personal=None)
        self._extractors = load_extractors(self._bundle)
        self._model = Model(self._bundle)

    def scores(self, clip: Path) -> Vector | None:
        """Scores (labels,) of a clip as one utterance; None if the gate finds no speech in it.

        Raises:
            UserError: the clip is missing or no sound file.
        """
        sound = open_sound(clip, self._bundle.spec.sample_rate)
        analyzer = Analyzer(
            self._bundle,
            self._extractors(),
            self._model,
            sound.blocks.rate,
            gaps=sound.gaps,
            use=BaselineUse("off"),
        )
        messages = [message for part in analyse(sound, analyzer) for message in part]
        found = [message for message in messages if isinstance(message, Utterance)]
        if not found:
            return None
        windows = np.array([float(one.windows) for one in found])
        each = np.array([[one.probabilities[k] for k in self._bundle.labels] for one in found])
        identity = Map.identity(len(self._bundle.labels))
        return _own_scores(windows @ each / windows.sum(), identity, self._bundle)


def _write(bundle: Bundle, chosen: Map, labels: int, out: Path | None) -> Bundle:
    """Write a bundle with the map; the manifest is replaced in one step, as its last file."""
    limit = MAX_WEIGHT
    before = earlier_manifest(bundle.digest)
    old = (bundle.path / MANIFEST).read_bytes()
    table: dict[str, Any] = read_toml(bundle.path / MANIFEST)
    table["personal"] = {
        "matrix": np.clip(chosen.matrix, -limit, limit).round(6).tolist(),
        "bias": np.clip(chosen.bias, -limit, limit).round(6).tolist(),
        "before": before,
    }
    table["provenance"] = {**table.get("provenance", {}), "personal_labels": labels}
    table["files"] = {**table["files"], before: hashlib.sha256(old).hexdigest()}
    manifest = tomli_w.dumps(table).encode()
    if out is None:
        _save(bundle.path / before, old)
        _replace(bundle.path, manifest)
        return load_bundle(bundle.path)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        copy = copy_bundle(bundle, holder / "bundle").path
        _save(copy / before, old)
        _replace(copy, manifest)
        copy.chmod(0o755)
        copy.rename(out)
    finally:
        shutil.rmtree(holder)
    return load_bundle(out)


def _replace(folder: Path, manifest: bytes) -> None:
    """Replace a bundle's manifest; after a power cut it is the old one or the new one."""
    partial = folder / f"{MANIFEST}.partial"
    _save(partial, manifest)
    try:
        partial.replace(folder / MANIFEST)
    except OSError as error:
        raise UserError(f"{folder / MANIFEST}: cannot be written ({error.strerror})") from None


def _save(path: Path, content: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
