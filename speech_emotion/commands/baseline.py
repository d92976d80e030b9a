"""`speech-emotion baseline forget`: forget what a running pipeline has learnt of its streams."""

from __future__ import annotations

from speech_emotion.common.config.checks import check_stream
from speech_emotion.common.errors import printable
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.control_messages import ForgetBaseline, Swapped
from speech_emotion.supervision.control_socket import find


def main(words: list[str]) -> int:
    """Run `speech-emotion baseline`; returns the exit code.

    Raises:
        UserError: a stream's name is malformed, or not exactly one pipeline runs.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion baseline",
        description="The baseline of a running pipeline: what its streams usually sound like.",
    )
    parts = flags.add_subparsers(required=True, metavar="ACTION")
    forget = parts.add_parser(
        "forget", help="begin again without any, between two windows; no window is lost"
    )
    forget.add_argument("--stream", metavar="NAME", help="forget this stream's; default: all")
    forget.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    if arguments.stream is not None:
        check_stream(arguments.stream)
    outcome = ask(find(arguments.pid), ForgetBaseline(arguments.stream), Swapped)
    print(printable(outcome.text))
    return outcome.code
