"""`speech-emotion swap`: make a running pipeline use another bundle."""

from __future__ import annotations

from pathlib import Path

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.supervision.control_socket import ask, running


def main(words: list[str]) -> int:
    """`speech-emotion swap`; an exit code.

    Raises:
        UserError: no such bundle, or no pipeline, or several.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion swap",
        description="Lets a running pipeline go on with another bundle, between two windows.",
    )
    flags.add_argument("bundle", type=Path, metavar="DIR", help="folder of the bundle")
    flags.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    load_bundle(arguments.bundle)
    found = running()
    if arguments.pid is not None:
        found = {pid: path for pid, path in found.items() if pid == arguments.pid}
    if not found:
        which = f"with process id {arguments.pid}" if arguments.pid is not None else "of this user"
        raise UserError(f"no pipeline {which} runs here")
    if len(found) > 1:
        raise UserError(f"several pipelines run: choose by --pid {' or '.join(map(str, found))}")
    (control,) = found.values()
    outcome = ask(control, arguments.bundle.resolve())
    print(outcome.text)
    return outcome.code
