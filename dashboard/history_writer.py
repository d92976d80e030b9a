"""Keeps what a pipeline publishes in a SQLite file: results, utterances and health, no sound.

Supervised it is the stage `history`; by hand it subscribes from anywhere.
"""

from __future__ import annotations

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
from speech_emotion.dashboard.history import Writer

log = logging.getLogger("history")

POLL_S = 0.1
COMMIT_S = 0.5
RETRY_S = 2.0
PURGE_EVERY_S = 60.0
DRAIN_S = 0.3
HELD = 10_000
"""Messages that wait for a disk which takes none; beyond it the oldest are let go and counted."""


class Recorder:
    """Takes messages, and writes them at most half a second later.

    Args:
        days: what is older is removed.
    """

    def __init__(self, writer: Writer, days: float) -> None:
        self.unwritten = 0
        self._writer = writer
        self._keep_s = days * 86400.0
        self._held: deque[tuple[public.Public, float]] = deque()
        self._commit_due = 0.0
        self._purge_due = 0.0
        self._failing = False

    def take(self, message: public.Public) -> None:
        """Hold a message until the next commit."""
        if len(self._held) >= HELD:
            self._held.popleft()
            self.unwritten += 1
        self._held.append((message, time.time()))

    def turn(self, now: float) -> None:
        """Write and clear up what is due. `now` is CLOCK_MONOTONIC."""
        if self._held and now >= self._commit_due:
            self._commit_due = now + (COMMIT_S if self.flush() else RETRY_S)
        if now >= self._purge_due:
            try:
                more = self._writer.purge(time.time() - self._keep_s)
            except sqlite3.Error as error:
                log.warning("old entries cannot be removed: %s", error)
                more = 0
            self._purge_due = now + (COMMIT_S if more else PURGE_EVERY_S)

    def flush(self) -> bool:
        """Write what is held; False where the disk does not take it."""
        try:
            self._writer.write(self._held)
        except sqlite3.Error as error:
            if not self._failing:
                log.error("history cannot be written, tried again every 2 s: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.info("history is written again; %d messages were lost", self.unwritten)
        self._failing = False
        self._held.clear()
        return True


def main(options: HistoryOptions, job: Job | None = None) -> int:
    """Write until SIGTERM or Ctrl-C.

    Args:
        job: the stage's job; None where it was started by hand.
    """
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub")) if job else None
    writer = Writer(options.file)
    recorder = Recorder(writer, options.days)
    log.warning("keeping results, utterances and health, no sound, in %s", options.file)
    try:
        with subscribe(options.results, options.client_keys) as results:
            if heartbeat is not None:
                heartbeat.state = "ready"
                heartbeat.beat(now=True)
            while not stop.requested:
                _take(results, recorder, heartbeat, POLL_S)
                recorder.turn(time.monotonic())
                if heartbeat is not None:
                    heartbeat.counters["history_malformed"] = results.malformed
                    heartbeat.counters["history_unwritten"] = recorder.unwritten
                    heartbeat.beat()
            while _take(results, recorder, heartbeat, DRAIN_S):
                pass
    finally:
        recorder.flush()
        writer.close()
        context.destroy(linger=0)
    return 0


def _take(
    results: Results, recorder: Recorder, heartbeat: HeartbeatSender | None, timeout: float
) -> bool:
    try:
        event = results.receive(timeout)
    except NewerProtocolError as error:
        raise UserError(str(error)) from None
    if event is None:
        return False
    # A replay may be news to a recorder that was away; but what has no time has no place.
    if not event.replay or getattr(event.message, "time", None) is not None:
        recorder.take(event.message)
        if heartbeat is not None:
            heartbeat.count += isinstance(event.message, public.Result)
    return True


def _flags(options: argparse.Namespace) -> HistoryOptions:
    if options.file is None:
        raise UserError("--file is missing: where shall history be kept?")
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
    parser = base_parser("dashboard.recorder", __doc__ or "")
    parser.add_argument("--results", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    add_client_key_flags(parser)
    parser.add_argument("--file", type=Path, metavar="FILE", help="SQLite file to write")
    default_days = HistoryConfig().days
    parser.add_argument("--days", type=float, default=default_days, help="default: %(default)s")
    arguments = parser.parse_args()
    run(
        "history",
        lambda: _supervised() if arguments.supervised else main(_flags(arguments)),
        arguments.profile,
    )
