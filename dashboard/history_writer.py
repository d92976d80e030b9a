"""Writes results, utterances and health of a pipeline to a SQLite file; never sound.

Under the supervisor this is the stage `history`. Started by hand it subscribes to any endpoint.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
import logging
import sqlite3
import time
from collections import deque
from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.client.results import DEFAULT_ENDPOINT, NewerProtocolError, Results
from speech_emotion.common.config.model import HistoryConfig
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import add_client_key_flags, client_keys_of
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import HistoryJob, HistoryOptions, Job
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.common.wire import public
from speech_emotion.common.wire.sockets import connect
from speech_emotion.dashboard.feed import subscribe
from speech_emotion.dashboard.history.writer import HistoryWriter

log = logging.getLogger("history")

POLL_S = 0.1
COMMIT_S = 0.5
RETRY_S = 2.0
PURGE_EVERY_S = 60.0
DRAIN_S = 0.3
PENDING = 10_000
"""Messages that wait while the file cannot be written; more drop the oldest, which is counted."""


class HistoryBuffer:
    """Collects messages and commits them every `COMMIT_S` seconds.

    Args:
        days: older rows are deleted.
    """

    def __init__(self, writer: HistoryWriter, days: float) -> None:
        self.unwritten = 0
        self._writer = writer
        self._keep_s = days * 86400.0
        self._pending: deque[tuple[public.Public, float]] = deque()
        self._commit_due = 0.0
        self._purge_due = 0.0
        self._failing = False

    def take(self, message: public.Public) -> None:
        """Add a message to the next commit."""
        if len(self._pending) >= PENDING:
            self._pending.popleft()
            self.unwritten += 1
        self._pending.append((message, time.time()))

    def turn(self, now: float) -> None:
        """Commit and purge when due.

        Args:
            now: CLOCK_MONOTONIC in seconds.
        """
        if self._pending and now >= self._commit_due:
            self._commit_due = now + (COMMIT_S if self.flush() else RETRY_S)
        if now >= self._purge_due:
            try:
                more = self._writer.purge(time.time() - self._keep_s)
            except sqlite3.Error as error:
                log.warning("old rows cannot be deleted, next try in 60 s: %s", error)
                more = 0
            self._purge_due = now + (COMMIT_S if more else PURGE_EVERY_S)

    def flush(self) -> bool:
        """Commit all pending messages; False if the file cannot be written."""
        try:
            self._writer.write(self._pending)
        except sqlite3.Error as error:
            if not self._failing:
                log.error("history cannot be written, retry every 2 s: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.info("history is written again; %d messages were dropped", self.unwritten)
        self._failing = False
        self._pending.clear()
        return True


def main(options: HistoryOptions, job: Job | None = None) -> int:
    """Write the history until a stop is requested.

    Args:
        job: the job of the stage; None where it was started by hand.
    """
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub")) if job else None
    writer = HistoryWriter(options.file)
    buffer = HistoryBuffer(writer, options.days)
    log.warning("writing results, utterances and health (no sound) to %s", options.file)
    try:
        with subscribe(options.results, options.client_keys) as results:
            if heartbeat is not None:
                heartbeat.state = "ready"
                heartbeat.beat(now=True)
            while not stop.requested:
                _receive(results, buffer, heartbeat, POLL_S)
                buffer.turn(time.monotonic())
                if heartbeat is not None:
                    heartbeat.counters["history_malformed"] = results.malformed
                    heartbeat.counters["history_unwritten"] = buffer.unwritten
                    heartbeat.beat()
            while _receive(results, buffer, heartbeat, DRAIN_S):
                pass
    finally:
        buffer.flush()
        writer.close()
        context.destroy(linger=0)
    return 0


def _receive(
    results: Results, buffer: HistoryBuffer, heartbeat: HeartbeatSender | None, timeout: float
) -> bool:
    try:
        event = results.receive(timeout)
    except NewerProtocolError as error:
        raise UserError(str(error)) from None
    if event is None:
        return False
    # After a restart a replay may be new; without a time it cannot be placed.
    if not event.replay or getattr(event.message, "time", None) is not None:
        buffer.take(event.message)
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
    parser = base_parser("dashboard.history_writer", __doc__ or "")
    parser.add_argument("--results", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    add_client_key_flags(parser)
    parser.add_argument("--file", type=Path, metavar="FILE", help="SQLite file to write")
    default_days = HistoryConfig().days
    parser.add_argument("--days", type=float, default=default_days, help="default: %(default)s")
    arguments = parser.parse_args()
    run(
        "history",
        lambda: _supervised() if arguments.supervised else main(_options(arguments)),
        arguments.profile,
    )
