"""The fleet process: a subscriber of the hub that publishes what it receives to NATS.

The main loop receives and sends heartbeats. A thread writes the outbox and publishes; another one
takes bundles from the centre, where the configuration allows it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import zmq

from speech_emotion.common.client.results import NewerProtocolError, Results
from speech_emotion.common.errors import UserError
from speech_emotion.common.stage.draining import drain
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.common.stage.pending_queue import PendingQueue
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire.sockets import connect
from speech_emotion.fleet.messages import Intake, Record
from speech_emotion.fleet.rollout.box import BoxRollout
from speech_emotion.fleet.rollout.orders import OFF, Report
from speech_emotion.fleet.sender import Sender

log = logging.getLogger("fleet")

POLL_S = 0.1
STOP_S = 1.5
"""Longest time at the end to publish what waits."""


class Service:
    """Intake, sender, and what takes bundles from the centre.

    Raises:
        UserError: the outbox cannot be used.
    """

    def __init__(self, job: FleetJob) -> None:
        self._job = job
        self._pending: PendingQueue[Record] = PendingQueue()
        self.sender = Sender(job, self._pending)
        self._intake = Intake(self.sender.states)
        self.rollout = _rollout(job)
        self._told: Report | None = None

    def start(self) -> None:
        """Start the threads."""
        self.sender.start()
        if self.rollout is not None:
            self.rollout.start()

    def stop(self) -> None:
        """Publish what can be published, and end the threads."""
        if self.rollout is not None:
            self.rollout.stop(0.2)
        self.sender.stop(STOP_S)

    def check(self) -> None:
        """Raises RuntimeError where a thread has ended by a fault of the program."""
        if not self.sender.alive or (self.rollout is not None and not self.rollout.alive):
            raise RuntimeError("a thread has ended; its error is above")

    def receive(self, results: Results, timeout: float) -> bool:
        """Take the next message; False where none came in time."""
        try:
            event = results.receive(timeout)
        except NewerProtocolError as error:
            raise UserError(str(error)) from None
        if event is None:
            return False
        now = time.monotonic()
        for record in self._intake.feed(event.message, now, replay=event.replay):
            self._pending.put(record)
        if self.rollout is not None and not event.replay:
            self.rollout.observe(event.message, now)
        return True

    def report(self, heartbeat: HeartbeatSender, malformed: int) -> None:
        """Set what the heartbeat tells, and tell the centre how a roll-out goes on."""
        self._report_rollout()
        heartbeat.lag_ms = 1000.0 * self.sender.age_s()
        heartbeat.counters["fleet_published"] = self.sender.published
        heartbeat.counters["fleet_failed"] = self.sender.failed
        heartbeat.counters["fleet_dropped"] = self.sender.dropped
        heartbeat.counters["fleet_unwritten"] = self._pending.dropped
        heartbeat.counters["fleet_lost"] = self._intake.lost
        heartbeat.counters["fleet_malformed"] = malformed

    def _report_rollout(self) -> None:
        if self.rollout is not None:
            report = self.rollout.report
        elif self._intake.has_rollout or self._job.rollout is not None:
            report = Report(state=OFF)
        else:
            return
        if report != self._told:
            self._told = report
            for record in self._intake.rollout(dataclasses.asdict(report), time.time()):
                self._pending.put(record)


def _rollout(job: FleetJob) -> BoxRollout | None:
    if job.rollout is None:
        return None
    try:
        return BoxRollout(job, job.rollout)
    except UserError as error:  # results are published all the same
        log.error("no bundle is taken from the centre: %s", error)
        return None


def main(job: FleetJob) -> int:
    """Publish until the process is stopped; returns the exit code.

    Raises:
        UserError: the outbox or an endpoint cannot be used.
    """
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    try:
        heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub"))
        service = Service(job)
        service.start()
        with Results(job.results) as results:
            heartbeat.state = "ready"
            heartbeat.beat(now=True)
            while not stop.requested:
                heartbeat.count += service.receive(results, POLL_S)
                service.check()
                service.report(heartbeat, results.malformed)
                heartbeat.beat()
            drain(lambda: results.health, lambda s: service.receive(results, s))
            service.stop()
            service.report(heartbeat, results.malformed)
            heartbeat.beat(now=True)
    finally:
        context.destroy(linger=100)
    return 0
