"""Clips of emotional speech, their labels, and the checks that keep a split valid.

`LABEL_SETS` and `MERGED` declare which emotion of a corpus counts as which label.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speech_emotion.common.bundle.dimensions import DIMENSIONS
from speech_emotion.common.errors import UserError

Samples = NDArray[np.float32]

LABEL_SETS: dict[str, tuple[str, ...]] = {
    "four": ("angry", "happy", "neutral", "sad"),
    "seven": ("angry", "boredom", "disgust", "fear", "happy", "neutral", "sad"),
}
MERGED = {"calm": "neutral", "excited": "happy"}
"""Corpus emotion → the label it counts as if it is not a label itself."""


def mapping(labels: Iterable[str]) -> dict[str, str]:
    """Corpus emotion → label, for the emotions that have one."""
    names = set(labels)
    merged = {e: label for e, label in MERGED.items() if label in names and e not in names}
    return {name: name for name in names} | merged


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording of one speaker with one emotion.

    Attributes:
        path: the sound file.
        corpus: name of its corpus, e.g. `EMODB`.
        speaker: name, unique over all corpora, e.g. `EMODB_03`.
        gender: `male` or `female`; empty if unknown.
        emotion: the corpus's own in lower case: `angry`, `calm`, `fear`, …; after `select`, the
            label.
        name: the file's path within its corpus or manifest, for messages.
        dimensions: pairs of dimension and rated value, 0 to 1; those that are known.
    """

    path: Path
    corpus: str
    speaker: str
    gender: str
    emotion: str
    name: str
    dimensions: tuple[tuple[str, float], ...] = ()


MANIFEST_COLUMNS = ("path", "corpus", "speaker", "emotion")


def read_manifest(path: Path, root: Path | None = None) -> list[Clip]:
    """Clips of a CSV with at least the columns path, corpus, speaker and emotion.

    Paths are relative to `root`, or to the manifest's folder. The columns `gender`, `arousal`,
    `valence` and `dominance` are optional; so is a value of the last three, 0 to 1.

    Raises:
        UserError: the file is missing, lacks a column, or a row lacks a value or has a wrong one.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if missing := [c for c in MANIFEST_COLUMNS if c not in columns]:
                raise UserError(f"{path}: has no column {missing[0]}")
            rows = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a readable CSV ({error})") from None
    folder = root or path.parent
    clips = []
    for number, row in enumerate(rows, start=2):
        if empty := [c for c in MANIFEST_COLUMNS if not row[c]]:
            raise UserError(f"{path}: line {number} has no {empty[0]}")
        clips.append(
            Clip(
                path=folder / row["path"],
                corpus=row["corpus"],
                speaker=row["speaker"],
                gender=row.get("gender") or "",
                emotion=row["emotion"].lower(),
                name=row["path"],
                dimensions=_dimensions(row, f"{path}: line {number}"),
            )
        )
    return clips


def _dimensions(row: dict[str, str], where: str) -> tuple[tuple[str, float], ...]:
    found = []
    for name in DIMENSIONS:
        text = row.get(name) or ""
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not 0.0 <= value <= 1.0:
            raise UserError(f"{where}: {name} = {text[:40]!r} must be 0 to 1")
        found.append((name, value))
    return tuple(found)


def select(clips: Iterable[Clip], labels: dict[str, str]) -> tuple[list[Clip], dict[str, int]]:
    """The clips that have a label, with it as emotion; `corpus:emotion` → clips dropped."""
    kept = []
    dropped: collections.Counter[str] = collections.Counter()
    for clip in clips:
        if clip.emotion in labels:
            kept.append(dataclasses.replace(clip, emotion=labels[clip.emotion]))
        else:
            dropped[f"{clip.corpus}:{clip.emotion}"] += 1
    return kept, dict(dropped)


def load(clip: Clip, rate: int) -> Samples:
    """A clip's samples (n,), mono, at `rate` Hz.

    Raises:
        UserError: the file is missing or is not a sound file.
    """
    try:
        samples, file_rate = sf.read(clip.path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError) as error:
        raise UserError(f"{clip.path}: cannot be read as sound ({error})") from None
    mono: Samples = samples.mean(axis=1, dtype=np.float32)
    if file_rate != rate:
        mono = soxr.resample(mono, file_rate, rate).astype(np.float32)
    return mono


SILENT_PEAK = 1e-4
"""Peak, -80 dBFS, below which a clip counts as silent."""


def check_sounds(clips: Sequence[Clip], sounds: Sequence[Samples]) -> None:
    """Check that no clip is silent and no two clips have the same samples.

    Raises:
        UserError: names the first such clip or pair.
    """
    seen: dict[bytes, Clip] = {}
    for clip, samples in zip(clips, sounds, strict=True):
        if len(samples) == 0 or float(np.abs(samples).max()) < SILENT_PEAK:
            raise UserError(f"{clip.name}: has no sound; take it out of the manifest")
        digest = hashlib.sha256(samples.tobytes()).digest()
        if (other := seen.setdefault(digest, clip)) is not clip:
            raise UserError(f"{clip.name} and {other.name}: the same samples twice; take one out")


def check_split(train: Iterable[Clip], test: Iterable[Clip]) -> None:
    """Check that no speaker and no file is on both sides of a split.

    Raises:
        UserError: names the first five.
    """
    train, test = list(train), list(test)
    if both := sorted({c.speaker for c in train} & {c.speaker for c in test}):
        raise UserError(f"speakers on both sides of the split: {', '.join(both[:5])}")
    if shared := sorted({str(c.path) for c in train} & {str(c.path) for c in test}):
        raise UserError(f"clips on both sides of the split: {', '.join(shared[:5])}")
