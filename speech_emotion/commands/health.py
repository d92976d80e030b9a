"""`speech-emotion health`: whether a running pipeline is well, for containers and monitoring."""

from __future__ import annotations

import time

from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, UserError, printable
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.control_messages import AskHealth
from speech_emotion.common.wire.public import Health
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS
from speech_emotion.supervision.control_socket import find, running

ANSWER_S = 2.0
"""Longest time that the supervisor may take to answer; its loop turns many times a second."""
TURN_S = 0.25


def main(words: list[str]) -> int:
    """Run `speech-emotion health`; returns 0 if the state is `ok`, else 1.

    Raises:
        UserError: several pipelines run and --pid is not given, or a flag is malformed.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion health",
        description="Print the state of a running pipeline of this user. "
        "Exit code: 0 it is ok, 1 it is not, or no pipeline runs.",
    )
    flags.add_argument(
        "--wait", type=float, default=0.0, metavar="S", help="wait for `ok`, at most S seconds"
    )
    flags.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    deadline = time.monotonic() + arguments.wait
    while True:
        code, text = look(arguments.pid)
        if code == EXIT_OK or not time.monotonic() < deadline:
            print(printable(text))
            return code
        time.sleep(TURN_S)


def look(pid: int | None) -> tuple[int, str]:
    """Exit code and state of the pipeline now.

    Raises:
        UserError: several pipelines run and `pid` is None.
    """
    sockets = running()
    if not sockets or (pid is not None and pid not in sockets):
        return EXIT_FAULT, "no pipeline of this user is running"
    control = find(pid)
    try:
        health = ask(control, AskHealth(), Health, ANSWER_S)
    except UserError as error:
        return EXIT_FAULT, str(error)
    if health.state == "ok":
        return EXIT_OK, f"ok: {health.mute.text}" if health.mute else "ok"
    return EXIT_FAULT, f"{health.state}: {'; '.join(faults(health)) or 'not ready yet'}"


def faults(health: Health) -> list[str]:
    """Each stage and stream that needs attention: name, state and reason."""
    rows = [
        (stage.name, stage.state, stage.reason)
        for stage in health.stages
        if stage.state not in FINE_STAGES
    ]
    rows += [
        (f"stream {stream.name}", stream.state, stream.reason)
        for stream in health.streams
        if stream.state not in FINE_STREAMS or stream.reason
    ]
    return [f"{name} {state}" + (f" ({reason})" if reason else "") for name, state, reason in rows]
