"""`speech-emotion report`: results as one HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speech_emotion.commands.export.source import tracks
from speech_emotion.commands.report.page import render
from speech_emotion.commands.report.summary import total_of
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.stage.main import Parser, program
from speech_emotion.infer.batch.parts import Draft, OutputError

DESCRIPTION = """\
Show results in a browser: shares, timelines, and the quality of the recordings. SOURCE is an output
of `infer --out`, a folder of `--record`, or a file of `--history`. The page needs no other file."""


def parser() -> argparse.ArgumentParser:
    flags = Parser(
        prog=program("report", "speech-emotion report"),
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("source", metavar="SOURCE", help="table, folder, recording or history")
    flags.add_argument("--out", metavar="FILE.html", help="default: SOURCE with the suffix .html")
    flags.add_argument("--force", action="store_true", help="write over a file that exists")
    return flags


def main(words: list[str]) -> int:
    """Write the page. Returns the exit code.

    Raises:
        UserError: the source cannot be read, or the page cannot be written.
    """
    arguments = parser().parse_args(words)
    source = Path(arguments.source)
    out = Path(arguments.out) if arguments.out else source.with_suffix(".html")
    if out.is_dir():
        raise UserError(f"{out}: is a folder; --out names a file")
    if out.exists() and not arguments.force:
        raise UserError(f"{out}: exists; --force writes over it, or name another --out")
    page = render(total_of(tracks(arguments.source)), arguments.source)
    try:
        with Draft(out.parent, out.name) as draft:
            draft.file.write(page.encode("utf-8", "backslashreplace"))
            draft.publish(out.name)
    except OutputError as error:
        raise UserError(str(error)) from None
    print(f"report: {out}", file=sys.stderr)
    return EXIT_OK
