"""Readers of corpora in their public file layouts: a folder becomes a list of `Clip`."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.train.data.clips import Clip


def _files(root: Path, pattern: str) -> list[tuple[Path, re.Match[str]]]:
    """Sound files under `root` whose whole name, without the suffix, matches the pattern."""
    files = []
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".wav", ".flac", ".opus", ".ogg", ".mp3") and (
            match := re.fullmatch(pattern, path.stem)
        ):
            files.append((path, match))
    return files


def _clip(root: Path, path: Path, corpus: str, speaker: str, gender: str, emotion: str) -> Clip:
    name = str(path.relative_to(root))
    return Clip(path, corpus, f"{corpus}_{speaker}", gender, emotion, name)


def _table(path: Path, key: str, value: str, delimiter: str) -> dict[str, str]:
    """Column `key` → column `value` in lower case; empty if the file does not exist."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row[key]: row[value].lower() for row in csv.DictReader(file, delimiter=delimiter)}


def read_ravdess(root: Path) -> list[Clip]:
    """RAVDESS speech: `Actor_01/03-01-05-01-02-01-01.wav`; songs (channel 02) are skipped."""
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
    """nEMO: `samples/SB0_anger_12.wav`; genders from `data.tsv` if it exists."""
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
    """IEMOCAP: labels from `Session*/dialog/EmoEvaluation/*.txt`, one WAV file per turn."""
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


def read_emospeech(root: Path) -> list[Clip]:
    """Indian EmoSpeech commands: `help-safe-angry-1563261412-a81f.wav`, the speaker's hash last.

    The parts are keyword, environment, emotion, time and speaker. Clips of an unknown speaker are
    skipped, since no split could keep them on one side.
    """
    codes = {
        "anger": "angry",
        "angry": "angry",
        "calm": "calm",
        "fear": "fear",
        "happy": "happy",
        "neutral": "neutral",
        "sad": "sad",
    }
    pattern = rf"[^-]+-[^-]+-((?i:{'|'.join(codes)}))-[^-]+-([0-9A-Za-z]+)"
    return [
        _clip(root, p, "EMOSPEECH", m[2].lower(), "", codes[m[1].lower()])
        for p, m in _files(root, pattern)
        if m[2].lower() not in ("unknown", "none", "na")
    ]


READERS: dict[str, Callable[[Path], list[Clip]]] = {
    "ravdess": read_ravdess,
    "emodb": read_emodb,
    "nemo": read_nemo,
    "cremad": read_cremad,
    "emospeech": read_emospeech,
    "tess": read_tess,
    "savee": read_savee,
    "urdu": read_urdu,
    "iemocap": read_iemocap,
}


def read_corpus(name: str, root: Path) -> list[Clip]:
    """Clips of a corpus in its public layout.

    Raises:
        UserError: the corpus has no reader, or the folder has no file of the corpus.
    """
    if name not in READERS:
        raise UserError(f"{name}: no such corpus; known: {', '.join(READERS)}, or a manifest")
    clips = READERS[name](root)
    if not clips:
        wanted = (READERS[name].__doc__ or "").splitlines()[0]
        raise UserError(f"{root}: has no file of {name}; expected {wanted}")
    return clips
