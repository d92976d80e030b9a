"""Prints what a running pipeline publishes: results, utterances, and on stderr how fresh they are.

With --json every message is one object a line, `topic` first, replays and health included.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from speech_emotion.common.client.results import (
    DEFAULT_ENDPOINT,
    Event,
    NewerProtocolError,
    Results,
)
from speech_emotion.common.errors import EXIT_OK, EXIT_USER
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.stage.main import Parser
from speech_emotion.common.wire import public

TURN_S = 0.25


def main(words: list[str]) -> int:
    """Print until Ctrl-C, or until nobody reads; an exit code."""
    parser = Parser(
        prog="speech-emotion subscribe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    parser.add_argument("--stream", metavar="NAME", help="one stream; default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--secret", type=Path, metavar="FILE", help="own .key_secret file, where keys are wanted"
    )
    parser.add_argument("--server", type=Path, metavar="FILE", help="the box's .key file")
    flags = parser.parse_args(words)
    if (flags.secret is None) != (flags.server is None):
        parser.error("--secret and --server belong together")
    client_keys = CurveClientKeys(flags.secret, flags.server) if flags.secret else None
    try:
        results = Results(flags.endpoint, flags.stream, client_keys=client_keys)
    except ValueError as error:
        _say(str(error))
        return EXIT_USER
    with results:
        try:
            _follow(results, _json_line if flags.json else functools.partial(_line, known={}))
        except NewerProtocolError as error:
            _say(str(error))
            return EXIT_USER
        except KeyboardInterrupt:
            return EXIT_OK
        except BrokenPipeError:
            # Python flushes stdout again at exit; that must not meet the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_OK


def _follow(results: Results, line_of: Callable[[Event], str | None]) -> NoReturn:
    told, lost = None, 0
    while True:
        event = results.receive(TURN_S)
        status = results.status()
        if (news := (status.state, status.reason)) != told:
            told = news
            _say(status.state.value + (f": {status.reason}" if status.reason else ""))
        if (total := results.lost.total()) > lost:
            _say(f"lost on the way here: {total - lost} windows")
            lost = total
        if event is not None and (line := line_of(event)) is not None:
            print(line, flush=True)
        elif _unread():
            raise BrokenPipeError


def _unread() -> bool:
    """Whether stdout is a pipe that nobody reads any more; without a write none would tell."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _say(line: str) -> None:
    print(f"subscribe: {line}", file=sys.stderr, flush=True)


def _json_line(event: Event) -> str:
    stream = "" if isinstance(event.message, public.Health) else f"/{event.message.stream}"
    table = {
        "topic": f"{event.message.topic}{stream}",
        **public.to_json_map(event.message),
        **({"replay": True} if event.replay else {}),
    }
    return json.dumps(table, ensure_ascii=False, allow_nan=False)


def _line(event: Event, known: dict[str, public.Info]) -> str | None:
    """One message for people; None where it is nothing new, or told on stderr.

    Args:
        known: the last info of each stream; another subscriber's replay tells it again.
    """
    match event.message:
        case public.Info() as info if known.get(info.stream) != info:
            known[info.stream] = info
            window, hop = info.window / info.rate, info.hop / info.rate
            grid = f"windows of {window:g} s every {hop:g} s"
            return f"{info.stream}  {info.source}, {grid}, {info.bundle}: {', '.join(info.labels)}"
        case public.Utterance() as said if not event.replay:
            span = f"{said.start / said.rate:8.1f} to {said.end / said.rate:.1f} s"
            return f"{said.stream}  {span}  utterance: {said.emotion} {said.confidence:.0%}"
        case public.Result() as result if not event.replay:
            sure = "" if result.confidence is None else f"{result.confidence:.0%}"
            doubt = f" ({result.reason})" if result.reason else ""
            return (
                f"{result.stream}  {result.end / result.rate:8.1f} s  "
                f"{result.emotion or result.state:<10} {sure:>4}  {result.rms_db:4.0f} dBFS{doubt}"
            )
    return None
