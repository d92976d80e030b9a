"""`speech-emotion audit verify`: check the chain of an audit log."""

from __future__ import annotations

import time
from pathlib import Path

from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, UserError, printable
from speech_emotion.common.privacy.audit_log import verify


def main(words: list[str]) -> int:
    """Run `speech-emotion audit`; returns the exit code, 1 where a line is broken.

    Raises:
        UserError: the log does not exist or is not named.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion audit",
        description="Check that no line of an audit log was changed, removed or inserted. Lines "
        "removed from the end are found only by comparing the last hash with one kept elsewhere; "
        "the log of the service names it at each start and stop.",
    )
    flags.add_argument("action", choices=("verify",))
    flags.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the audit log")
    flags.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration that names it"
    )
    arguments = flags.parse_args(words)
    file = arguments.file
    if file is None:
        from speech_emotion.common.config.load import load_config

        file = load_config(arguments.config, {}).audit.file
    if file is None:
        raise UserError("name the audit log: speech-emotion audit verify FILE")
    found = verify(file)
    if found.broken is not None:
        print(printable(f"broken: {found.broken}"))
        print(f"{found.records} records before it are whole")
        return EXIT_FAULT
    if found.first is None or found.last is None:
        print(printable(f"{file}: no record yet"))
        return EXIT_OK
    print(
        f"whole: {found.records} records, {found.first.n} to {found.last.n}, "
        f"{_day(found.first.table)} to {_day(found.last.table)}"
    )
    if found.first.n > 1:
        print(f"records before {found.first.n} were removed with old files")
    print(f"last hash {found.last.hash}")
    return EXIT_OK


def _day(table: object) -> str:
    at = table.get("time") if isinstance(table, dict) else None
    known = isinstance(at, int | float) and 0.0 <= at < 1e11
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if known else "?"
