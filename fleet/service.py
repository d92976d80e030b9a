"""The fleet process: a subscriber of the hub that publishes what it receives to NATS.

The main loop receives and sends heartbeats. A thread writes the outbox and publishes.
"""

from __future__ import annotations

import time
from typing import Any

import zmq

from speech_emotion.common.client.results import NewerProtocolError, Results
from speech_emotion.common.errors import UserError
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.common.stage.pending_queue import PendingQueue
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire.sockets import connect
from speech_emotion.fleet.messages import Intake, Record
from speech_emotion.fleet.sender import Sender

POLL_S = 0.1
DRAIN_S = 0.3
"""After a stop, messages are taken until none has come for this long."""
STOP_S = 1.5
"""Longest time at the end to publish what waits."""


class Service:
    """Intake and sender.

    Raises:
        UserError: the outbox cannot be used.
    """

    def __init__(self, job: FleetJob) -> None:
        self._pending: PendingQueue[Record] = PendingQueue()
        self.sender = Sender(job, self._pending)
        self._intake = Intake(self.sender.states)

    def receive(self, results: Results, timeout: float) -> bool:
        """Take the next message; False where none came in time."""
        try:
            event = results.receive(timeout)
        except NewerProtocolError as error:
            raise UserError(str(error)) from None
        if event is None:
            return False
        for record in self._intake.feed(event.message, time.monotonic(), replay=event.replay):
            self._pending.put(record)
        return True

    def report(self, heartbeat: HeartbeatSender, malformed: int) -> None:
        """Set what the heartbeat tells."""
        heartbeat.lag_ms = 1000.0 * self.sender.age_s()
        heartbeat.counters["fleet_published"] = self.sender.published
        heartbeat.counters["fleet_failed"] = self.sender.failed
        heartbeat.counters["fleet_dropped"] = self.sender.dropped
        heartbeat.counters["fleet_unwritten"] = self._pending.dropped
        heartbeat.counters["fleet_lost"] = self._intake.lost
        heartbeat.counters["fleet_malformed"] = malformed


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
        service.sender.start()
        with Results(job.results) as results:
            heartbeat.state = "ready"
            heartbeat.beat(now=True)
            while not stop.requested:
                heartbeat.count += service.receive(results, POLL_S)
                if not service.sender.alive:
                    raise RuntimeError("the sender has ended; its error is above")
                service.report(heartbeat, results.malformed)
                heartbeat.beat()
            while service.receive(results, DRAIN_S):
                pass
            service.sender.stop(STOP_S)
            service.report(heartbeat, results.malformed)
            heartbeat.beat(now=True)
    finally:
        context.destroy(linger=100)
    return 0
