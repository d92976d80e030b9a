"""Heartbeats and counters of one stage."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter

import zmq

from speech_emotion.common.wire import internal
from speech_emotion.common.wire.sockets import send

BEAT_S = 0.5
"""Time between two heartbeats."""


class HeartbeatSender:
    """Sends the heartbeats of one stage, from its main loop, so that a stuck loop sends none.

    Args:
        stage: name of the stage, such as `features` or `features/1`.
        hub: socket connected to the hub; the stage sends its other messages on it as well.
    """

    def __init__(self, stage: str, hub: zmq.Socket[bytes]) -> None:
        self.stage = stage
        self.state = "starting"
        self.count = 0
        self.drops = 0
        self.lag_ms: float | None = None
        self.counters: Counter[str] = Counter()
        self._hub = hub
        self._due = 0.0
        self._then = time.monotonic()
        self._count_then = 0
        self._cpu_then = time.process_time()

    def due(self) -> bool:
        """Whether a heartbeat is due."""
        return time.monotonic() >= self._due

    @property
    def wait_s(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._due - time.monotonic())

    def beat(
        self, streams: list[internal.SourceStatus] | None = None, *, now: bool = False
    ) -> None:
        """Send a heartbeat if one is due.

        Args:
            streams: state of the sources that the stage captures.
            now: send it even if none is due.
        """
        if not now and not self.due():
            return
        monotonic = time.monotonic()
        self._due = monotonic + BEAT_S
        elapsed = max(monotonic - self._then, 1e-3)
        cpu = time.process_time()
        message = internal.Heartbeat(
            stage=self.stage,
            pid=os.getpid(),
            state=self.state,
            count=self.count,
            rate_hz=round((self.count - self._count_then) / elapsed, 2),
            lag_ms=None if self.lag_ms is None else round(self.lag_ms, 2),
            drops=self.drops,
            cpu_percent=round(100.0 * (cpu - self._cpu_then) / elapsed, 1),
            rss_mb=rss_mb(),
            streams=streams or [],
            counters=dict(self.counters),
        )
        self._then, self._count_then, self._cpu_then = monotonic, self.count, cpu
        send(self._hub, message)


def rss_mb() -> float:
    """Resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)
