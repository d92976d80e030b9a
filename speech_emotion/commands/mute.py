"""`speech-emotion mute`: stop listening by hand."""

from __future__ import annotations

import getpass
import re

from speech_emotion.common.errors import UserError, printable
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.control_messages import MuteSet, SetMute
from speech_emotion.supervision.control_socket import find

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_of(text: str, flag: str = "--for") -> float:
    """A length such as `90s`, `30m`, `1h30m` or `2d`, in seconds.

    Args:
        flag: for the text of an error.

    Raises:
        UserError: it is no length between a second and 366 days.
    """
    if not re.fullmatch(r"(\d{1,6}[smhd]){1,4}", text):
        raise UserError(f"{flag} {text!r} must be a length such as 30m, 1h30m, 8h or 2d")
    seconds = sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)([smhd])", text))
    if not 1.0 <= seconds <= 366 * UNITS["d"]:
        raise UserError(f"{flag} {text!r} must be 1s to 366d")
    return seconds


def main(words: list[str]) -> int:
    """Run `speech-emotion mute`; returns the exit code.

    Raises:
        UserError: not exactly one pipeline runs, or the length is malformed.
    """
    return ask_for(words, muted=True)


def ask_for(words: list[str], *, muted: bool) -> int:
    """Run `speech-emotion mute`, or `unmute`; returns the exit code, 1 where it is still muted.

    Raises:
        UserError: not exactly one pipeline runs, or the length is malformed.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion mute" if muted else "speech-emotion unmute",
        description=(
            "Stop listening: no sound is taken until `speech-emotion unmute`, also after a restart."
            if muted
            else "Listen again, unless quiet hours or the switch mute the pipeline."
        ),
    )
    if muted:
        flags.add_argument(
            "--for", dest="length", metavar="LENGTH", help="such as 30m, 1h30m or 8h"
        )
    flags.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    length = getattr(arguments, "length", None)
    seconds = seconds_of(length) if length is not None else None
    control = find(arguments.pid)
    outcome = ask(control, SetMute(muted, seconds, f"command of {getpass.getuser()}"), MuteSet)
    print(printable(outcome.text))
    return outcome.code
