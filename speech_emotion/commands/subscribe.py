"""Print the results and utterances of a running pipeline; stderr shows whether they are fresh.

With --json each message is one JSON object per line, `topic` first, with replays and `health`.

examples:
  speech-emotion subscribe
  speech-emotion subscribe --json --stream kitchen
  speech-emotion subscribe --results tcp://box:5555 --secret me.key_secret --server box.key
"""

from __future__ import annotations

import argparse
import functools
import json
import select
import sys
from collections.abc import Callable
from typing import NoReturn

from speech_emotion.common.client.flags import add_results_flags, open_results
from speech_emotion.common.client.results import Event, NewerProtocolError, Results
from speech_emotion.common.errors import UserError, printable
from speech_emotion.common.stage.main import Parser
from speech_emotion.common.wire import public

TURN_S = 0.25


def main(words: list[str]) -> NoReturn:
    """Print until Ctrl-C, or until stdout is closed.

    Raises:
        UserError: the endpoint or a key is not usable, or the pipeline is newer than this program.
        BrokenPipeError: stdout is closed.
    """
    parser = Parser(
        prog="speech-emotion subscribe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")
    add_results_flags(parser, stream=True)
    flags = parser.parse_args(words)
    with open_results(flags) as results:
        try:
            _follow(results, _json_line if flags.json else functools.partial(_line, known={}))
        except NewerProtocolError as error:
            raise UserError(str(error)) from None


def _follow(results: Results, line_of: Callable[[Event], str | None]) -> NoReturn:
    shown, lost = None, 0
    while True:
        event = results.receive(TURN_S)
        status = results.status()
        if (state := (status.state, status.reason)) != shown:
            shown = state
            _report(status.state.value + (f": {status.reason}" if status.reason else ""))
        if (total := results.lost.total()) > lost:
            _report(f"lost between the pipeline and this program: {total - lost} windows")
            lost = total
        if event is not None and (line := line_of(event)) is not None:
            print(printable(line), flush=True)
        elif _stdout_closed():
            raise BrokenPipeError


def _stdout_closed() -> bool:
    """Whether stdout is a pipe without a reader; without a write no error shows it."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _report(line: str) -> None:
    print(f"subscribe: {printable(line)}", file=sys.stderr, flush=True)


def _json_line(event: Event) -> str:
    stream = "" if isinstance(event.message, public.Health) else f"/{event.message.stream}"
    table = {
        "topic": f"{event.message.topic}{stream}",
        **public.to_json_map(event.message),
        **({"replay": True} if event.replay else {}),
    }
    line = json.dumps(table, ensure_ascii=False, allow_nan=False)
    return line if line.isprintable() else json.dumps(table, allow_nan=False)


def _line(event: Event, known: dict[str, public.Info]) -> str | None:
    """One message as text; None where it is no news or appears on stderr.

    Args:
        known: the last `info` of each stream; a replay for another subscriber repeats it.
    """
    match event.message:
        case public.Info() as info if known.get(info.stream) != info:
            known[info.stream] = info
            window, hop = info.window / info.rate, info.hop / info.rate
            grid = f"windows of {window:g} s every {hop:g} s"
            return f"{info.stream}  {info.source}, {grid}, {info.bundle}: {', '.join(info.labels)}"
        case public.Utterance() as utterance if not event.replay:
            span = (
                f"{utterance.start / utterance.rate:8.1f} to {utterance.end / utterance.rate:.1f} s"
            )
            label = f"{utterance.emotion} {utterance.confidence:.0%}"
            return f"{utterance.stream}  {span}  utterance: {label}"
        case public.Result() as result if not event.replay:
            confidence = "" if result.confidence is None else f"{result.confidence:.0%}"
            reason = f" ({result.reason})" if result.reason else ""
            position, label = result.end / result.rate, result.emotion or result.state
            values = f"{label:<10} {confidence:>4}  {result.rms_db:4.0f} dBFS{reason}"
            return f"{result.stream}  {position:8.1f} s  {values}"
    return None
