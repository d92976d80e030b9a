"""`speech-emotion swap`: make a running pipeline use another bundle."""

from __future__ import annotations

from pathlib import Path

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import UserError, printable
from speech_emotion.supervision.control_socket import ask, running


def main(words: list[str]) -> int:
    """Run `speech-emotion swap`; returns the exit code.

    Raises:
        UserError: the bundle does not exist, or not exactly one pipeline runs.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion swap",
        description="Swap the bundle of a running pipeline between two windows; no window is lost.",
    )
    flags.add_argument("bundle", type=Path, metavar="DIR", help="folder of the bundle")
    flags.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    load_bundle(arguments.bundle)
    sockets = running()
    if arguments.pid is not None:
        sockets = {pid: path for pid, path in sockets.items() if pid == arguments.pid}
    if not sockets:
        which = f"with process id {arguments.pid}" if arguments.pid is not None else "of this user"
        raise UserError(f"no pipeline {which} is running")
    if len(sockets) > 1:
        raise UserError(
            f"several pipelines are running: choose one with --pid {' or '.join(map(str, sockets))}"
        )
    (control,) = sockets.values()
    outcome = ask(control, arguments.bundle.resolve())
    print(printable(outcome.text))
    return outcome.code
