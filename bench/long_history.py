"""A history with 1,000,000 utterances: how long each view of the page takes to read, and how long
the writer stops for a purge, alone and beside a running pipeline whose results it writes:
`python -m bench.long_history [--utterances 100000]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from bench.harness import pipeline, speech_file
from bench.history import LABELS, window
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.wire import public
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.history.pending import PendingMessages
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.rows import HistoryRows
from speech_emotion.dashboard.history.writer import HistoryWriter
from speech_emotion.dashboard.history_writer import COMMIT_S, WriterThread
from speech_emotion.dashboard.live.feed import subscribe

DAYS = 14
BATCH = 2000
STREAM = "living-room"
REPEATS = 5
VIEW_MS, PAUSE_MS = 300.0, 200.0


def utterance(number: int, seq: int, at: float) -> public.Utterance:
    """An utterance of two windows."""
    label = LABELS[number % len(LABELS)] if number % 997 else "surprised"
    return public.Utterance(
        *(STREAM, "621cb50dd21b5680", seq, 8000 * number, 8000 * number + 16000, 16000, at),
        *(label, 0.7, dict.fromkeys(LABELS, 0.25), None, 2, "default@a2de3198"),
    )


def fill(writer: HistoryWriter, utterances: int, windows: int, begin: float) -> list[float]:
    """Write the file through the real writer; returns the time of each commit in seconds."""
    span = DAYS * 86400.0
    patterns = [window(seq, 0.0, speech=seq % 3 == 0) for seq in range(300)]
    results = (
        dataclasses.replace(
            patterns[seq % 300], seq=seq, start=8000 * seq, time=begin + span * seq / windows
        )
        for seq in range(windows)
    )
    spoken = (
        utterance(number, number, begin + span * number / utterances)
        for number in range(utterances)
    )
    times = []
    rows: tuple[Iterator[public.Result | public.Utterance], ...] = (results, spoken)
    for kind in rows:
        while batch := [(one, 0.0) for one in itertools.islice(kind, BATCH)]:
            before = time.perf_counter()
            writer.write(batch)
            times.append(time.perf_counter() - before)
    return times


Took: TypeAlias = tuple[float, float]
"""Milliseconds of one call: passed, and of CPU. Other programs change the first more."""


def took(call: Callable[[], object]) -> Took:
    passed, used = time.perf_counter(), time.thread_time()
    call()
    return 1000.0 * (time.perf_counter() - passed), 1000.0 * (time.thread_time() - used)


def views(path: Path, now: float) -> dict[str, Callable[[], object]]:
    """What the page reads for each view, with a connection of its own, as in a request."""

    def with_reader(read: Callable[[HistoryReader], object]) -> Callable[[], object]:
        def whole() -> str:
            with HistoryReader(path) as reader:
                return messages.to_json(read(reader))

        return whole

    def chart(seconds: float) -> Callable[[], object]:
        start = now - seconds
        return with_reader(
            lambda r: [
                r.windows(STREAM, start, now, 1200),
                r.utterance_bins(STREAM, start, now, 1200),
                r.utterances(STREAM, start, now),
                r.count_utterances(STREAM, start, now),
                r.bounds(STREAM),
            ]
        )

    def listed(
        label: str | None, before: tuple[float, int, int] | None = None
    ) -> Callable[[], object]:
        return with_reader(
            lambda r: [one for _, one in r.newest_utterances(None, label, 0.0, now, 101, before)]
        )

    def page() -> object:
        with HistoryRows(path, "utterance", None, now - 7 * 86400.0, now) as rows:
            return list(itertools.islice(rows, 501))

    middle = (now - 7 * 86400.0, 1, 0)
    return {
        **{f"chart of {n} h": chart(3600.0 * n) for n in (1, 6, 24)},
        "chart of a week": chart(7 * 86400.0),
        "chart of all time": chart(1e12),
        "heat map of a week": with_reader(
            lambda r: r.shares(STREAM, now - 7 * 86400.0, now, 3600, 20_000)
        ),
        "heat map of a month": with_reader(
            lambda r: r.shares(STREAM, now - 31 * 86400.0, now, 3600, 20_000)
        ),
        "comparison of the streams": with_reader(
            lambda r: r.shares(None, now - 31 * 86400.0, now, 0, 20_000)
        ),
        "list of utterances": listed(None),
        "list, a rare label": listed("surprised"),
        "list, a label that never occurs": listed("amused"),
        "list, from the middle": listed("happy", middle),
        "page of the HTTP interface": page,
    }


def purged(writer: HistoryWriter, path: Path, before: float) -> list[Took]:
    """Delete what is older; the time of each turn."""
    times = []
    while begin_of(path) < before:
        times.append(took(lambda: writer.purge(before)))
    return times


def purged_beside_a_pipeline(path: Path, days: float, before: float) -> list[Took]:
    """Write the results of a running pipeline until the thread of the writer has deleted what is
    older; the time of each of its turns.
    """
    pending, times = PendingMessages(), list[Took]()
    thread = WriterThread(path, days, pending, None)
    with (
        tempfile.TemporaryDirectory() as folder,
        pipeline(speech_file(Path(folder), 600), DEFAULT_BUNDLE) as program,
        subscribe(program.endpoint) as results,
    ):
        program.wait_for(results=3)
        while begin_of(path) < before:
            due = time.monotonic() + COMMIT_S
            while (left := due - time.monotonic()) > 0.0:
                if event := results.receive(left):
                    pending.add(event.message)
            times.append(took(lambda: thread.turn(time.monotonic())))
    thread.close()
    return times


def begin_of(path: Path) -> float:
    """Unix time of the oldest window."""
    with HistoryReader(path) as reader:
        known = reader.bounds(STREAM)
    return known[0] if known else 0.0


def report(what: str, turns: list[Took]) -> bool:
    """Print turns of a deletion; whether one was too long."""
    passed, used = ([one[place] for one in turns] for place in (0, 1))
    print(
        f"{what}: {len(turns)} turns, median {statistics.median(passed):.0f} ms, "
        f"longest {max(passed):.0f} ms; CPU {statistics.median(used):.0f} and {max(used):.0f} ms"
    )
    return max(passed) > PAUSE_MS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=1_000_000, metavar="N")
    parser.add_argument(
        "--windows", type=int, default=2 * DAYS * 86400, metavar="N", help="default: 2 a second"
    )
    options = parser.parse_args()
    now = time.time()
    begin = now - DAYS * 86400.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.sqlite"
        writer = HistoryWriter(path)
        commits = fill(writer, options.utterances, options.windows, begin)
        print(
            f"{options.utterances:,} utterances and {options.windows:,} windows in {DAYS} days, "
            f"{path.stat().st_size / 1e6:.0f} MB"
        )
        each = 1e6 * sum(commits) / (options.utterances + options.windows)
        print(f"a message is written in {each:.0f} µs")
        slow = []
        for name, read in views(path, now).items():
            times = [took(read) for _ in range(REPEATS)]
            passed, used = map(max, zip(*times, strict=True))
            slow += [name] * (passed > VIEW_MS)
            print(f"{name:<34} {passed:6.0f} ms, CPU {used:6.0f} ms")
        late = report("purge of a day", purged(writer, path, begin + 86400.0))
        writer.close()
        turns = purged_beside_a_pipeline(path, DAYS - 2.0, begin + 2 * 86400.0)
        late |= report("purge of a day beside a pipeline", turns)
        print(f"over {VIEW_MS:g} ms: {', '.join(slow) or 'none'}")
        print(f"purge over {PAUSE_MS:g} ms: {'yes' if late else 'no'}")


if __name__ == "__main__":
    main()
