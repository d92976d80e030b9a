"""The inputs of a batch: files, folders, patterns and manifests as one ordered list."""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from speech_emotion.capture.recording.reader import TIMELINE
from speech_emotion.common.errors import UserError

READABLE = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"),
    *(".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".nist"),
)
UNREADABLE = (".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm", ".3gp", ".ape", ".wv")
"""Not read by libsndfile: a row with an error is better than a recording that is left out."""
SUFFIXES = frozenset(READABLE + UNREADABLE)
"""Names that count as sound in a folder. A file that is named itself may have any name."""
COLUMNS = ("file", "path")
"""Columns of a CSV manifest that name the files; the first that is there."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What to analyse.

    Attributes:
        names: paths, in order, each once.
        ignored: files in folders that have no name of a sound file, by suffix.
    """

    names: list[str]
    ignored: Counter[str]


def collect(paths: list[str], manifest: str | None) -> Inputs:
    """List the inputs; folders are searched to any depth, in the order of their names.

    Args:
        paths: files, folders, or patterns (`*`, `?`, `[…]`, `**`) that name no file themselves.
        manifest: a list of files: one a line, or a CSV file with a column `file` or `path`; its
            relative names count from its own folder. `-`: lines of standard input.

    Raises:
        UserError: a path does not exist, a pattern or a folder holds no sound, the manifest
            cannot be read.
    """
    names: dict[str, None] = {}
    ignored: Counter[str] = Counter()
    for path in paths:
        found = list(_of_path(path, ignored))
        if not found:
            raise UserError(f"{path}: holds no sound files")
        names |= dict.fromkeys(found)
    if manifest is not None:
        names |= dict.fromkeys(_of_manifest(manifest))
    if not names:
        raise UserError("nothing to analyse: name files, folders or --manifest FILE")
    return Inputs(list(names), ignored)


def shard_of(names: list[str], shard: str | None) -> list[str]:
    """Every n-th input, for a shard `I/N` with I from 1 to N.

    Raises:
        UserError: the shard is malformed.
    """
    if shard is None:
        return names
    part, _, parts = shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UserError(f"--shard {shard!r} must be I/N with I from 1 to N, for example 1/8")
    return names[int(part) - 1 :: int(parts)]


def _of_path(path: str, ignored: Counter[str]) -> Iterator[str]:
    if "\0" in path:
        raise UserError(f"{path!r}: is not a file name")
    if os.path.isdir(path):
        yield from _of_folder(path, ignored)
    elif os.path.lexists(path):
        yield path
    elif glob.has_magic(path):
        for match in sorted(glob.glob(path, recursive=True)):
            if os.path.isdir(match):
                yield from _of_folder(match, ignored)
            else:
                yield match
    else:
        raise UserError(f"{path}: no such file or folder")


def _of_folder(folder: str, ignored: Counter[str]) -> Iterator[str]:
    if os.path.exists(os.path.join(folder, TIMELINE)):
        yield folder  # a recording
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        yield folder  # its row gives the reason
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _of_folder(entry.path, ignored)
        elif (suffix := Path(entry.name).suffix.lower()) in SUFFIXES:
            yield entry.path
        else:
            ignored[suffix or "no suffix"] += 1


def _of_manifest(manifest: str) -> list[str]:
    try:
        if manifest == "-":
            text, folder = sys.stdin.buffer.read(), ""
        else:
            text, folder = Path(manifest).read_bytes(), os.path.dirname(manifest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{manifest}: cannot be read ({reason})") from None
    content = os.fsdecode(text.removeprefix(b"\xef\xbb\xbf"))
    if manifest.lower().endswith((".csv", ".tsv")):
        lines = _column(content, "\t" if manifest.lower().endswith(".tsv") else ",", manifest)
    else:
        lines = content.split("\0" if "\0" in content else "\n")
    names = [os.path.join(folder, name) for line in lines if (name := line.strip("\r\n"))]
    if not names:
        raise UserError(f"{manifest}: names no file")
    return names


def _column(content: str, delimiter: str, manifest: str) -> list[str]:
    try:
        reader = csv.DictReader(io.StringIO(content), delimiter=delimiter)
        column = next((name for name in COLUMNS if name in (reader.fieldnames or ())), None)
        if column is None:
            raise UserError(f"{manifest}: has no column {' or '.join(COLUMNS)}")
        return [row[column] or "" for row in reader]
    except csv.Error as error:
        raise UserError(f"{manifest}: is not valid CSV ({error})") from None
