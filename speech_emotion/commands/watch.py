"""Show a running pipeline in this terminal: one live line per stream, also over ssh and in tmux.

Ctrl-C ends it. Where the terminal has too few lines, streams with a problem come first.

examples:
  speech-emotion watch
  speech-emotion watch --once
  speech-emotion watch --results tcp://box:5555 --secret me.key_secret --server box.key
"""

from __future__ import annotations

import argparse
import collections
import re
import time

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from speech_emotion.common.client.flags import add_results_flags, open_results
from speech_emotion.common.client.results import Freshness, NewerProtocolError, Results, Status
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.safe_text import SafeText
from speech_emotion.common.stage.main import Parser
from speech_emotion.common.wire import public
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS

SHOW_S = 0.1
HEALTH_S = 1.5
"""Time of `--once` in seconds: `health` comes once a second."""
FLOOR_DB = -80.0
UTTERANCES = 3
STAGE_LINES = 3
"""Lines that the stages may take where there is room."""
MARKS = {
    Freshness.FRESH: ("●", "green"),
    Freshness.DEGRADED: ("▲", "yellow"),
    Freshness.STALE: ("■", "red"),
    Freshness.GONE: ("✕", "red"),
}
"""Shape and colour; people who see only one of them can tell the states apart."""


def natural_order(name: str) -> list[str]:
    """Sort key of a name with numbers: `main-2` before `main-10`."""
    return [part.zfill(40) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


class Screen:
    """The current state of the pipeline as lines for a terminal of any size."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._latest: dict[str, public.Result] = {}
        self._utterances: collections.deque[public.Utterance] = collections.deque(maxlen=UTTERANCES)
        self._refusal: str | None = None

    def take(self, timeout: float) -> None:
        """Receive messages for `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0.0:
            try:
                event = self._results.receive(left)
            except NewerProtocolError as error:
                self._refusal = str(error)
                continue
            match event and event.message:
                case public.Result() as result:
                    self._latest[result.stream] = result
                case public.Utterance() as utterance if event is not None and not event.replay:
                    self._utterances.append(utterance)

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        health = self._results.health
        rows = {row.name: row for row in health.streams} if health else {}
        names = [*rows] if rows else [*self._latest]
        if self._results.stream is not None:
            names = [name for name in names if name == self._results.stream]
        statuses = {name: self._results.status(name) for name in names}
        names.sort(key=lambda name: -list(Freshness).index(statuses[name].state))
        spare = (options.max_height or 24) - 3
        utterances = min(len(self._utterances), max(0, spare - len(names)), UTTERANCES)
        room = max(1, spare - utterances)
        # All streams in the order of their names if they fit, else the worst ones.
        shown = sorted(names, key=natural_order) if len(names) <= room else names[: room - 1]
        yield self._header()
        yield self._table(shown, statuses, rows, options.max_width)
        if len(shown) < len(names):
            yield SafeText(f"  and {len(names) - len(shown)} more", "bright_black")
        for utterance in list(self._utterances)[len(self._utterances) - utterances :]:
            yield SafeText(
                f"  {_utterance_line(utterance)}", "bright_black", no_wrap=True, overflow="crop"
            )
        used = 3 + len(shown) + (len(shown) < len(names)) + utterances
        spare_lines = (options.max_height or 24) - used
        yield self._stages(health, options.max_width, min(STAGE_LINES, max(1, spare_lines)))

    def _header(self) -> SafeText:
        status = self._results.status()
        mark, colour = MARKS[status.state]
        why = self._refusal or status.reason or ""
        line = SafeText(no_wrap=True, overflow="ellipsis")
        line.append(f"{mark} {status.state.value}", f"bold {colour}")
        line.append(f"  {self._results.endpoint}", "bright_black")
        return line.append(f"  {why}", colour) if why else line

    def _table(
        self,
        names: list[str],
        statuses: dict[str, Status],
        rows: dict[str, public.StreamHealth],
        width: int,
    ) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        fair, wide = width >= 56, width >= 100
        for name in names:
            result, status = self._latest.get(name), statuses[name]
            mark, colour = MARKS[status.state]
            old = status.state in (Freshness.STALE, Freshness.GONE)
            label = (result.emotion or result.state) if result and not old else "–"
            confidence = result.confidence if result and not old else None
            level = result.rms_db if result and not old else FLOOR_DB
            problem = _problem(rows.get(name), status, result)
            adapted = "" if old or result is None else adaptation(result.baseline)
            shade = "bright_black" if confidence is None else "cyan"
            table.add_row(
                SafeText(mark, colour),
                SafeText(name, "bold", no_wrap=True, overflow="ellipsis"),
                SafeText(f"{label:<9}", shade, no_wrap=True),
                SafeText("" if confidence is None else f"{confidence:4.0%}", no_wrap=True),
                # The bar beside the percentage is that percentage; the level has one of its own
                # only where both fit.
                ProgressBar(100, 100 * (confidence or 0.0), width=14) if fair else "",
                SafeText(f"{level:4.0f} dB" if result and not old else "", no_wrap=True),
                ProgressBar(-FLOOR_DB, max(0.0, level - FLOOR_DB), width=12, complete_style="green")
                if wide
                else "",
                SafeText(_lag(result) if wide and not old else "", "bright_black", no_wrap=True),
                SafeText(problem, colour if status.reason else "yellow", no_wrap=True)
                if problem
                else SafeText(adapted, "bright_black", no_wrap=True),
            )
        return table if names else SafeText("  no stream yet", "bright_black")

    def _stages(self, health: public.Health | None, width: int, lines: int) -> RenderableType:
        """The stages, in at most `lines` lines; what does not fit into one line is cut."""
        if health is None:
            return SafeText("  no health message yet", "bright_black")
        parts = [_stage(stage) for stage in health.stages]
        memory = sum(stage.rss_mb for stage in health.stages)
        parts.append(SafeText(f"  {memory:.0f} MB", "bright_black"))
        rows = [SafeText(no_wrap=True, overflow="ellipsis")]
        for part in parts:
            if (
                rows[-1].cell_len + part.cell_len > width
                and rows[-1].cell_len
                and len(rows) < lines
            ):
                rows.append(SafeText(no_wrap=True, overflow="ellipsis"))
            rows[-1].append_text(part)
        return Group(*rows)


def _stage(stage: public.StageHealth) -> SafeText:
    fine = stage.state in FINE_STAGES
    text = SafeText("  ")
    text.append(f"{'✓' if fine else '✕'} {stage.name}", "" if fine else "bold red")
    text.append(f" {stage.cpu_percent:.0f} %" if fine else f" {stage.state}", "bright_black")
    if stage.restarts:
        text.append(f" ↻{stage.restarts}", "yellow")
    return text


def _problem(row: public.StreamHealth | None, status: Status, result: public.Result | None) -> str:
    """The problem of a stream with its cause; else the reason of an uncertain label."""
    if row is not None and (row.reason or row.state not in FINE_STREAMS):
        state = row.state.replace("_", " ")
        return f"{state}: {row.reason}" if row.reason else state
    if status.reason is not None:
        return status.reason
    return (result.reason or "").replace("_", " ") if result is not None else ""


def adaptation(seconds: float | None) -> str:
    """How far a stream is adapted to its room; empty where it has no baseline."""
    if seconds is None:
        return ""
    if seconds == 0.0:
        return "Not adapted yet"
    length = f"{seconds:.0f} s" if seconds < 90.0 else f"{seconds / 60.0:.0f} min"
    return f"Adapted to this room: {length} of speech"


def _lag(result: public.Result | None) -> str:
    if result is None or result.timing_ms is None or result.time is None:
        return ""
    return f"{result.timing_ms['total']:.0f} ms"


def _utterance_line(utterance: public.Utterance) -> str:
    unix = utterance.time
    clock = "" if unix is None else time.strftime("%H:%M:%S  ", time.localtime(unix))
    seconds = (utterance.end - utterance.start) / utterance.rate
    label = f"{utterance.emotion} {utterance.confidence:.0%}"
    return f"{clock}{utterance.stream}: {label}, {seconds:.1f} s"


def main(words: list[str]) -> int:
    """Show the pipeline until Ctrl-C; returns the exit code.

    Raises:
        UserError: the endpoint or a key is not usable, or stdout is no terminal.
    """
    parser = Parser(
        prog="speech-emotion watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="print the current state and exit")
    add_results_flags(parser, stream=True)
    flags = parser.parse_args(words)
    console = Console(highlight=False)
    if not (flags.once or console.is_terminal):
        raise UserError("needs a terminal; `speech-emotion subscribe` prints lines")
    with open_results(flags) as results:
        screen = Screen(results)
        if flags.once:
            screen.take(HEALTH_S)
            console.print(Group(screen))
            return EXIT_OK
        with Live(screen, console=console, screen=True, auto_refresh=False) as live:
            while True:
                screen.take(SHOW_S)
                live.refresh()
