"""`speech-emotion export`: results in the formats of other programs."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from speech_emotion.commands.export.annotations import BOTH_TIERS, WRITERS
from speech_emotion.commands.export.source import Track, tracks
from speech_emotion.commands.export.tables import TEXT_TABLES, parquet
from speech_emotion.commands.export.tiers import TIERS, tiers_of
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.stage.main import Parser, program
from speech_emotion.infer.batch.parts import Draft, OutputError

DESCRIPTION = """\
Write results in another format. SOURCE is an output of `infer --out`, a folder of `--record`, or a
file of `--history`. Tables become one file; textgrid, elan, audacity and vtt one per recording."""
FORMATS = ("parquet", "csv", "json", *WRITERS, "audformat")
KINDS = {"utterances": ("utterance",), "windows": ("result",), "all": ("result", "utterance")}


def parser() -> argparse.ArgumentParser:
    flags = Parser(
        prog=program("export", "speech-emotion export"),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("source", metavar="SOURCE", help="table, folder, recording or history")
    flags.add_argument("--format", choices=FORMATS, required=True, help="what to write")
    flags.add_argument(
        "--out", metavar="PATH", help="file or folder; csv and json default to standard output"
    )
    flags.add_argument(
        "--rows",
        choices=KINDS,
        help="default: all; utterances for audacity and vtt",
    )
    flags.add_argument(
        "--root", metavar="DIR", default="", help="names of files become relative to it"
    )
    flags.add_argument("--force", action="store_true", help="write over files that exist")
    return flags


def main(words: list[str]) -> int:
    """Export. Returns the exit code.

    Raises:
        UserError: the source cannot be read, or the output cannot be written.
    """
    arguments = parser().parse_args(words)
    name = arguments.format
    if arguments.out is None and name not in TEXT_TABLES:
        raise UserError(f"--format {name} needs --out")
    found = tracks(arguments.source)
    try:
        if name in WRITERS:
            _annotations(found, arguments)
        elif name == "audformat":
            _database(found, arguments)
        elif arguments.out is None:
            TEXT_TABLES[name](found, sys.stdout, KINDS[arguments.rows or "all"])
        else:
            _table(found, arguments)
    except OutputError as error:
        raise UserError(str(error)) from None
    return EXIT_OK


def _table(found: Iterator[Track], arguments: argparse.Namespace) -> None:
    out = _free(Path(arguments.out), arguments)
    with Draft(out.parent, out.name) as draft:
        if arguments.format == "parquet":
            parquet(found, draft.file)
        else:
            text = io.TextIOWrapper(draft.file, encoding="utf-8", newline="")
            TEXT_TABLES[arguments.format](found, text, KINDS[arguments.rows or "all"])
            text.flush()
            text.detach()
        draft.publish(out.name)


def _annotations(found: Iterator[Track], arguments: argparse.Namespace) -> None:
    suffix, write = WRITERS[arguments.format]
    default = "all" if arguments.format in BOTH_TIERS else "utterances"
    rows = arguments.rows or default
    wanted = TIERS if rows == "all" else (rows,)
    folder = Path(arguments.out)
    names: set[Path] = set()
    count = 0
    for track in found:
        place = _place(track.name, arguments.root)
        path = folder / place.with_suffix(suffix)
        if path in names:  # talk.wav and talk.flac
            path = folder / place.with_name(place.name + suffix)
        names.add(path)
        _free(path, arguments)
        with Draft(path.parent, path.name) as draft:
            draft.file.write(write(tiers_of(track, wanted), track.name).encode("utf-8"))
            draft.publish(path.name)
        count += 1
    print(f"export: {count} files in {folder}", file=sys.stderr)


def _database(found: Iterator[Track], arguments: argparse.Namespace) -> None:
    from speech_emotion.commands.export import database

    folder = Path(arguments.out)
    _free(folder / "db.yaml", arguments)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        database.write(found, folder, arguments.root)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def _free(path: Path, arguments: argparse.Namespace) -> Path:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; --out names a file")
    if path.exists() and not arguments.force:
        raise UserError(f"{path}: exists; --force writes over it, or name another --out")
    return path


def _place(name: str, root: str) -> Path:
    """Where the file of a recording lies below the output folder: never outside of it."""
    path = os.path.relpath(name, root) if root else os.path.normpath(name)
    parts = [part for part in Path(path).parts if part not in ("/", "..", ".")]
    return Path(*parts) if parts else Path("recording")
