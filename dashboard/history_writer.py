"""Writes results, utterances and health of a pipeline to a SQLite file; never sound.

Under the supervisor this is the stage `history`. Started by hand it subscribes to any endpoint.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
import contextlib
import datetime as dt
import logging
import math
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.client.flags import add_results_flags
from speech_emotion.common.client.results import NewerProtocolError, Results
from speech_emotion.common.config.model import HistoryConfig
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import client_keys_of
from speech_emotion.common.stage.draining import drain
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import HistoryJob, HistoryOptions, Job
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.common.wire import public
from speech_emotion.common.wire.sockets import connect
from speech_emotion.dashboard.history.pending import PENDING, PendingMessages
from speech_emotion.dashboard.history.purge_clock import PurgeClock
from speech_emotion.dashboard.history.writer import HistoryBusyError, HistoryWriter, Progress
from speech_emotion.dashboard.live.feed import subscribe

log = logging.getLogger("history")

POLL_S = 0.1
COMMIT_S = 0.5
RETRY_S = 2.0
PURGE_EVERY_S = 60.0
DRAIN_ALONE_S = 0.3
"""After a stop by hand, messages are taken until none has come for this long: the pipeline may be
on another machine, or gone."""
BATCH = 2000
"""Messages of one commit."""
STOP_S = 2.4
"""Longest time for the last commits of a supervised process; the supervisor kills it later."""
STOP_ALONE_S = 30.0
"""The same for a process that was started by hand."""


class WriterThread:
    """Commits pending messages and deletes old rows; a slow disk or a lock blocks only itself.

    Args:
        path: the history file.
        days: age in days from which rows are deleted.
        pending: the messages.
        writer: the open file; None: another program holds its lock, and it is opened later.
        whole_runs: as `HistoryWriter` takes it.
    """

    def __init__(
        self,
        path: Path,
        days: float,
        pending: PendingMessages,
        writer: HistoryWriter | None,
        *,
        whole_runs: bool = False,
    ) -> None:
        self.refused = 0
        self.lost = 0
        self._whole_runs = whole_runs
        self._progress: Progress = {}
        self._path = path
        self._days = days
        self._pending = pending
        self._writer = writer
        self._clock: PurgeClock | None = None
        self._purge_due = 0.0
        self._failing = False
        self._stopping = threading.Event()
        self._deadline = math.inf
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, limit_s: float) -> None:
        """Write what waits, and end the thread after `limit_s` seconds at the latest."""
        self._deadline = time.monotonic() + limit_s
        self._stopping.set()
        self._thread.join(limit_s)
        if self._pending:
            log.error(
                "%d messages were not written: %s cannot be written", len(self._pending), self._path
            )

    def close(self) -> None:
        """Close the file; only where the thread does not run."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def turn(self, now: float) -> bool:
        """Write all that waits and purge when due; False if the file cannot be written.

        Args:
            now: CLOCK_MONOTONIC in seconds.
        """
        try:
            writer = self._open()
            while batch := self._pending.take(BATCH):
                writer.write(batch)
                self._pending.written()
            self.refused, self.lost = writer.refused, writer.lost
        except (sqlite3.Error, OSError, UserError, HistoryBusyError) as error:
            self._pending.failed()
            if not self._failing:
                log.error(
                    "history cannot be written; up to %d messages wait, next try in %g s: %s",
                    *(PENDING, RETRY_S, error),
                )
            self._failing = True
            return False
        if self._failing:
            log.warning("history is written again; %d messages were dropped", self._pending.dropped)
        self._failing = False
        if now >= self._purge_due:
            self._purge_due = now + (COMMIT_S if self._purge(writer) else PURGE_EVERY_S)
        return True

    def _open(self) -> HistoryWriter:
        """The writer of the file at the path; opens it again if it was removed or replaced."""
        if self._writer is not None and not self._writer.in_place():
            log.warning("%s was removed or replaced; a new history file is opened", self._path)
            self._progress = self._writer.progress
            self._writer.close()
            self._writer = None
        if self._writer is None:
            self._writer = HistoryWriter(
                self._path, whole_runs=self._whole_runs, progress=self._progress
            )
            self._clock = None
        return self._writer

    def _purge(self, writer: HistoryWriter) -> bool:
        """Delete some of the old rows, count some of an earlier version; whether more are left."""
        wall, monotonic = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            if self._clock is None:
                self._clock = writer.purge_clock(self._days * 86400.0, wall, monotonic)
            held = self._clock.holding
            trusted = self._clock.update(wall, monotonic)
            if self._clock.holding and not held:
                log.warning(
                    "the system clock is %.1f days ahead of the history; old rows are kept for now",
                    (wall - trusted) / 86400.0,
                )
            writer.save_purge_clock(self._clock)
            more = writer.count_older()
            return writer.purge(days_before(trusted, self._days)) > 0 or more
        except sqlite3.Error as error:
            log.warning("old rows cannot be deleted or counted, next try in 60 s: %s", error)
            return False

    def _run(self) -> None:
        delay = 0.0
        while not self._stopping.wait(delay):
            delay = COMMIT_S if self.turn(time.monotonic()) else RETRY_S
        while not self.turn(time.monotonic()) and time.monotonic() < self._deadline:
            time.sleep(POLL_S)
        if self._writer is not None and not self._pending:
            self._writer.close()


def days_before(unix_time: float, days: float) -> float:
    """The unix time of the same local time of day, a number of calendar days earlier."""
    moment = dt.datetime.fromtimestamp(unix_time)
    return (moment - dt.timedelta(days=days)).timestamp()


def main(options: HistoryOptions, job: Job | None = None) -> int:
    """Write the history until a stop is requested.

    Args:
        job: the job of the stage; None where it was started by hand.

    Raises:
        UserError: the file cannot be used.
    """
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub")) if job else None
    writer = None
    with contextlib.suppress(HistoryBusyError):
        writer = HistoryWriter(options.file, whole_runs=job is not None)
    pending = PendingMessages()
    thread = WriterThread(
        *(options.file, options.days, pending, writer), whole_runs=job is not None
    )
    log.warning("writing results, utterances and health (no sound) to %s", options.file)
    try:
        with subscribe(options.results, options.client_keys) as results:
            thread.start()
            if heartbeat is not None:
                heartbeat.state = "ready"
                heartbeat.beat(now=True)
            while not stop.requested:
                _receive(results, pending, heartbeat, POLL_S)
                if heartbeat is not None:
                    heartbeat.counters["history_malformed"] = results.malformed + thread.refused
                    _count_losses(heartbeat, pending, thread)
                    heartbeat.lag_ms = 1000.0 * pending.age_s()
                    heartbeat.beat()
            if job is not None:
                drain(lambda: results.health, lambda s: _receive(results, pending, heartbeat, s))
            while job is None and _receive(results, pending, heartbeat, DRAIN_ALONE_S):
                pass
            thread.stop(STOP_S if job else STOP_ALONE_S)
            if heartbeat is not None:
                _count_losses(heartbeat, pending, thread)
                heartbeat.beat(now=True)
    finally:
        context.destroy(linger=100)
    return 0


def _count_losses(
    heartbeat: HeartbeatSender, pending: PendingMessages, thread: WriterThread
) -> None:
    heartbeat.counters["history_unwritten"] = pending.dropped
    heartbeat.counters["history_lost"] = thread.lost


def _receive(
    results: Results, pending: PendingMessages, heartbeat: HeartbeatSender | None, timeout: float
) -> bool:
    try:
        event = results.receive(timeout)
    except NewerProtocolError as error:
        raise UserError(str(error)) from None
    if event is None:
        return False
    # After a restart a replay may be new. Without a time it is placed at its arrival, as all
    # messages are at full speed; but to a writer started by hand it can be of any age.
    placed = heartbeat is not None or getattr(event.message, "time", None) is not None
    if not event.replay or placed:
        pending.add(event.message)
        if heartbeat is not None:
            heartbeat.count += isinstance(event.message, public.Result)
    return True


def _options(options: argparse.Namespace) -> HistoryOptions:
    if options.file is None:
        raise UserError("--file is missing: the SQLite file to write")
    if not 0.0 < options.days <= 3660.0:
        raise UserError(f"--days {options.days:g} must be more than 0 and at most 3660")
    return HistoryOptions(
        results=options.results,
        file=options.file,
        days=options.days,
        client_keys=client_keys_of(options),
    )


def _supervised() -> int:
    job = read_job(HistoryJob)
    return main(job.options, job)


if __name__ == "__main__":
    parser = base_parser("history", __doc__ or "", "dashboard.history_writer")
    add_results_flags(parser)
    parser.add_argument("--file", type=Path, metavar="FILE", help="SQLite file to write; required")
    parser.add_argument(
        "--days",
        type=float,
        metavar="N",
        default=HistoryConfig().days,
        help="keep rows for N days; default: %(default)g",
    )
    run(
        "history",
        parser,
        lambda given: _supervised() if given.supervised else main(_options(given)),
    )
