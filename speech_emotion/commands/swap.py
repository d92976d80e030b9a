"""`speech-emotion swap`: make a running pipeline use another bundle."""

from __future__ import annotations

from pathlib import Path

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import printable
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.control_messages import Swap, Swapped
from speech_emotion.supervision.control_socket import find


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
    outcome = ask(find(arguments.pid), Swap(str(arguments.bundle.resolve())), Swapped)
    print(printable(outcome.text))
    return outcome.code
