"""capture as a process for file sources: one loop paces any number of files into their rings."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator

import zmq

from capture.pump import Format, Pump
from capture.sources import FileSource
from common import messages as m
from common.ring import RingWriter
from common.sockets import connect, send
from common.stage import Heart, Stop

log = logging.getLogger("capture")

POLL_MS = 100
REPEAT_S = 0.2
"""`Open`, and the tick of an ended stream, are repeated so often until they are answered."""
DRAIN_S = 5.0
"""After a stop, so long may the windows already complete take to be delivered."""


@dataclasses.dataclass(frozen=True)
class StreamJob:
    """One stream of this process: its name, its source as configured, its ring."""

    name: str
    source: str
    ring: str
    channel: int | None = None


class FileStream:
    """One file on its way into one ring, in real time or as fast as results are accepted.

    Reading begins where the ring ends, so a restarted process goes on without a gap.
    """

    def __init__(
        self,
        job: StreamJob,
        form: Format,
        blocks: Iterator[int],
        send: Callable[[m.Tick], None],
        *,
        realtime: bool,
    ) -> None:
        self.job = job
        self.accepted: m.Accepted | None = None
        self._source = FileSource(job.source.removeprefix("file:"))
        self._form = form
        self._blocks = blocks
        self._realtime = realtime
        ring = RingWriter.attach(job.ring)
        skip = ring.index
        self._fed = 0
        if skip and self._source.rate == form.rate and self._source.seekable:
            self._source.seek(skip)
            skip = 0
        self.pump = Pump(
            job.name, ring, self._source.rate, form, send, channel=job.channel, skip=skip
        )
        self._began = time.monotonic()
        if realtime:
            self._catch_up(skip)
            self._began = time.monotonic()
            self._fed = 0
            self.pump.anchor(ring.index, self._began, time.time())

    def _catch_up(self, samples: int) -> None:
        # What an earlier process has written takes no time now.
        while samples and self._fed * self._form.rate < samples * self._source.rate:
            self._feed(self._source.rate)

    @property
    def open(self) -> m.Open:
        form = self._form
        return m.Open(
            self.job.name,
            self.pump.ring.run,
            self.job.source,
            form.rate,
            form.window,
            form.hop,
        )

    @property
    def done(self) -> bool:
        """Every result of this stream was accepted, the end included."""
        return self.accepted is not None and self.accepted.ended
