"""Corpora of emotional speech as lists of clips, and the checks that keep a split honest.

A reader per public file layout turns a folder into `Clip`s; `read_manifest` does so for any
`manifest.csv`. Which emotions count as which label is declared in `LABEL_SETS` and `MERGED`.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError

Samples = NDArray[np.float32]

LABEL_SETS: dict[str, tuple[str, ...]] = {
    "four": ("angry", "happy", "neutral", "sad"),
    "seven": ("angry", "boredom", "disgust", "fear", "happy", "neutral", "sad"),
}
MERGED = {"calm": "neutral", "excited": "happy"}
"""Corpus emotion → the label it counts as where it is no label itself."""


def mapping(labels: Iterable[str]) -> dict[str, str]:
    """Corpus emotion → label. Emotions that are not named are dropped and counted."""
    names = set(labels)
    merged = {e: label for e, label in MERGED.items() if label in names and e not in names}
    return {name: name for name in names} | merged


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording of one speaker with one emotion.

    Attributes:
        path: the sound file.
        corpus: name of its corpus, e.g. `EMODB`.
        speaker: unique over all corpora, e.g. `EMODB_03`.
        gender: `male`, `female` or empty where it is not known.
        emotion: the corpus's own, as one lower-case word: `angry`, `calm`, `fear`, …; or its label.
        name: the file's path within its corpus or manifest, for messages.
    """

    path: Path
    corpus: str
    speaker: str
    gender: str
    emotion: str
    name: str


MANIFEST_COLUMNS = ("path", "corpus", "speaker", "emotion")


def read_manifest(path: Path, root: Path | None = None) -> list[Clip]:
    """Clips of a CSV with at least the columns path, corpus, speaker and emotion.

    Paths are relative to `root`, or to the manifest's folder. A column `gender` is used
    where it is there.

    Raises:
        UserError: the file is missing, lacks a column, or a row lacks a value.
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
            )
        )
    return clips


# --- readers of public layouts -------------------------------------------------------------


def _files(root: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """Sound files anywhere under `root` whose name, without the suffix, matches wholly."""
    found = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".wav", ".flac", ".opus", ".ogg", ".mp3") and (
            match := re.fullmatch(pattern, path.stem)
        ):
            found.append((path, match))
    return found


def _clip(root: Path, path: Path, corpus: str, speaker: str, gender: str, emotion: str) -> Clip:
    name = str(path.relative_to(root))
    return Clip(path, corpus, f"{corpus}_{speaker}", gender, emotion, name)


def _table(path: Path, key: str, value: str, delimiter: str) -> dict[str, str]:
    """One column of a table by another; empty where the file is not there."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row[key]: row[value].lower() for row in csv.DictReader(file, delimiter=delimiter)}


def read_ravdess(root: Path) -> list[Clip]:
    """RAVDESS speech: `Actor_01/03-01-05-01-02-01-01.wav`; songs (channel 02) are left out."""
    codes = dict(
        zip(
            ("01", "02", "03", "04", "05", "06", "07", "08"),
            ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"),
            strict=True,
        )
    )
    pattern = r"0[13]-01-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)"
    return [
        _clip(root, p, "RAVDESS", m[2], "male" if int(m[2]) % 2 else "female", codes[m[1]])
        for p, m in _files(root, pattern)
    ]


def read_emodb(root: Path) -> list[Clip]:
    """EMO-DB: `wav/03a01Fa.wav`, the sixth character is the German emotion's initial."""
    codes = {
        "W": "angry",
        "L": "boredom",
        "E": "disgust",
        "A": "fear",
        "F": "happy",
        "T": "sad",
        "N": "neutral",
    }
    males = {"03", "10", "11", "12", "15"}
    return [
        _clip(root, p, "EMODB", m[1], "male" if m[1] in males else "female", codes[m[2]])
        for p, m in _files(root, r"(\d\d)[ab]\d\d([WLEAFTN])[a-z]?")
    ]


def read_nemo(root: Path) -> list[Clip]:
    """nEMO: `samples/SB0_anger_12.wav`; genders from `data.tsv` where it is there."""
    codes = {
        "anger": "angry",
        "fear": "fear",
        "happiness": "happy",
        "neutral": "neutral",
        "sadness": "sad",
        "surprised": "surprise",
        "surprise": "surprise",
    }
    genders = _table(root / "data.tsv", "speaker_id", "gender", "\t")
    return [
        _clip(root, p, "NEMO", m[1], genders.get(m[1], ""), codes[m[2]])
        for p, m in _files(root, rf"([A-Z0-9]+)_({'|'.join(codes)})_\d+")
    ]


def read_cremad(root: Path) -> list[Clip]:
    """CREMA-D: `AudioWAV/1001_DFA_ANG_XX.wav`; genders from `VideoDemographics.csv`."""
    codes = {
        "ANG": "angry",
        "DIS": "disgust",
        "FEA": "fear",
        "HAP": "happy",
        "NEU": "neutral",
        "SAD": "sad",
    }
    genders = _table(root / "VideoDemographics.csv", "ActorID", "Sex", ",")
    return [
        _clip(root, p, "CREMAD", m[1], genders.get(m[1], ""), codes[m[2]])
        for p, m in _files(root, rf"(\d{{4}})_[A-Z]{{3}}_({'|'.join(codes)})_(?:LO|MD|HI|XX|X)")
    ]


def read_tess(root: Path) -> list[Clip]:
    """TESS: `OAF_back_angry.wav`, two women; `ps` is a pleasant surprise."""
    codes = {
        "angry": "angry",
        "disgust": "disgust",
        "fear": "fear",
        "happy": "happy",
        "neutral": "neutral",
        "ps": "surprise",
        "sad": "sad",
    }
    return [
        _clip(root, p, "TESS", m[1], "female", codes[m[2].lower()])
        for p, m in _files(root, rf"(OAF?|YAF)_.+_((?i:{'|'.join(codes)}))")
    ]


def read_savee(root: Path) -> list[Clip]:
    """SAVEE: `AudioData/DC/a01.wav` or flat `DC_a01.wav`, four men."""
    codes = {
        "a": "angry",
        "d": "disgust",
        "f": "fear",
        "h": "happy",
        "n": "neutral",
        "sa": "sad",
        "su": "surprise",
    }
    clips = []
    for path, match in _files(root, r"(?:(DC|JE|JK|KL)_)?(sa|su|[adfhn])\d\d"):
        speaker = match[1] or path.parent.name
        if speaker in ("DC", "JE", "JK", "KL"):
            clips.append(_clip(root, path, "SAVEE", speaker, "male", codes[match[2]]))
    return clips


def read_urdu(root: Path) -> list[Clip]:
    """URDU: `Angry/SM1_F10_A010.wav`, speakers SM… and SF…."""
    codes = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}
    return [
        _clip(root, p, "URDU", m[1], "male" if m[1][1] == "M" else "female", codes[m[2]])
        for p, m in _files(root, r"(S[MF]\d+)_F\d+_([AHNS])\d+")
    ]


def read_iemocap(root: Path) -> list[Clip]:
    """IEMOCAP: labels from `Session*/dialog/EmoEvaluation/*.txt`, one wav a turn."""
    codes = {
        "ang": "angry",
        "hap": "happy",
        "exc": "excited",
        "neu": "neutral",
        "sad": "sad",
        "fru": "frustrated",
        "fea": "fear",
        "sur": "surprise",
        "dis": "disgust",
    }
    clips = []
    for labels in sorted(root.glob("Session*/dialog/EmoEvaluation/*.txt")):
        lines = labels.read_text(encoding="utf-8", errors="replace")
        for turn, dialog, code in re.findall(
            r"^\[[^\]]+\]\t((\S+)_[FM]\d+)\t([a-z]{3})\t", lines, re.MULTILINE
        ):
            path = labels.parents[2] / "sentences" / "wav" / dialog / f"{turn}.wav"
            letter = turn.rsplit("_", 1)[1][0]
            gender = "female" if letter == "F" else "male"
            emotion = codes.get(code, "other")
            clips.append(_clip(root, path, "IEMOCAP", turn[:5] + letter, gender, emotion))
    return clips


READERS: dict[str, Callable[[Path], list[Clip]]] = {
    "ravdess": read_ravdess,
    "emodb": read_emodb,
    "nemo": read_nemo,
    "cremad": read_cremad,
    "tess": read_tess,
    "savee": read_savee,
    "urdu": read_urdu,
    "iemocap": read_iemocap,
}


def read_corpus(name: str, root: Path) -> list[Clip]:
    """Clips of a corpus in its public layout.

    Raises:
        UserError: the corpus has no reader, or the folder none of its files.
    """
    if name not in READERS:
        raise UserError(f"{name}: no such corpus; known: {', '.join(READERS)}, or a manifest")
    clips = READERS[name](root)
    if not clips:
        wanted = (READERS[name].__doc__ or "").splitlines()[0]
        raise UserError(f"{root}: has no file of {name}; expected {wanted}")
    return clips


# --- labels and checks ---------------------------------------------------------------------


def select(clips: Iterable[Clip], labels: dict[str, str]) -> tuple[list[Clip], dict[str, int]]:
    """Clips with their emotion replaced by its label, and how many were dropped by emotion."""
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
        UserError: the file is missing or no sound file.
    """
    try:
        samples, found = sf.read(clip.path, dtype="float32", always_2d=True)
    except (OSError, sf.LibsndfileError) as error:
        raise UserError(f"{clip.path}: cannot be read as sound ({error})") from None
    mono: Samples = samples.mean(axis=1, dtype=np.float32)
    if found != rate:
        mono = soxr.resample(mono, found, rate).astype(np.float32)
    return mono


SILENT_PEAK = 1e-4
"""A clip whose peak is below -80 dBFS holds no speech."""


def check_sounds(clips: Sequence[Clip], sounds: Sequence[Samples]) -> None:
    """Every clip has sound, and no two are the same samples.

    Raises:
        UserError: names the first offending clip, or pair.
    """
    seen: dict[bytes, Clip] = {}
    for clip, samples in zip(clips, sounds, strict=True):
        if len(samples) == 0 or float(np.abs(samples).max()) < SILENT_PEAK:
            raise UserError(f"{clip.name}: has no sound; take it out of the manifest")
        digest = hashlib.sha256(samples.tobytes()).digest()
        if (other := seen.setdefault(digest, clip)) is not clip:
            raise UserError(f"{clip.name} and {other.name}: the same samples twice; take one out")


def check_split(train: Iterable[Clip], test: Iterable[Clip]) -> None:
    """No speaker and no file stands on both sides.

    Raises:
        UserError: names them.
    """
    train, test = list(train), list(test)
    if both := sorted({c.speaker for c in train} & {c.speaker for c in test}):
        raise UserError(f"speakers on both sides of the split: {', '.join(both[:5])}")
    if shared := sorted({str(c.path) for c in train} & {str(c.path) for c in test}):
        raise UserError(f"clips on both sides of the split: {', '.join(shared[:5])}")
