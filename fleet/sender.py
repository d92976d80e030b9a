"""Writes records to the outbox and publishes them, in a thread of its own.

A disk that stalls or a server that is away delays neither heartbeats nor the receipt of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time

from nats.aio.client import Client
from nats.js.api import PubAck

from speech_emotion.common.errors import DeviceError, UserError
from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.common.stage.pending_queue import PendingQueue
from speech_emotion.fleet.messages import NUMBER_HEADER, Record
from speech_emotion.fleet.outbox import Outbox, Waiting
from speech_emotion.fleet.server import FAULTS, cause, open_client
from speech_emotion.fleet.streams import ensure_box_stream

log = logging.getLogger("fleet")

TURN_S = 0.5
"""Time between two commits; they wear the disk of a box."""
RETRY_S = 2.0
ACK_S = 5.0
BATCH = 500
"""Messages that are published before the first answer is awaited."""


class Sender:
    """Publishes until it is stopped.

    Args:
        job: server, outbox and stream.
        pending: the records; another thread puts them.

    Attributes:
        published: messages that the server has accepted.
        failed: attempts that failed.

    Raises:
        UserError: the outbox cannot be used.
        DeviceError: another program holds its lock.
    """

    def __init__(self, job: FleetJob, pending: PendingQueue[Record]) -> None:
        self.published = self.failed = self._dropped = 0
        self._job = job
        self._pending = pending
        self._outbox: Outbox | None = self._opened()
        self.states = self._outbox.states() if self._outbox else {}
        self._accepted: list[Waiting] = []
        self._sequence = 0
        self._oldest: float | None = None
        self._client: Client | None = None
        self._stream_ready = False
        self._retry = 0.0
        self._failing = self._unwritten = False
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends only after `stop`, or by a fault of the program."""
        return self._thread.is_alive()

    @property
    def dropped(self) -> int:
        """Messages that the outbox dropped because it was full."""
        return self._dropped + (self._outbox.dropped if self._outbox else 0)

    def age_s(self) -> float:
        """Seconds that the oldest message has waited; 0 where none waits."""
        oldest = self._oldest
        waited = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        return max(waited, self._pending.age_s())

    def stop(self, limit_s: float) -> None:
        """Publish what can be published in `limit_s` seconds; the rest stays in the outbox."""
        self._deadline = time.monotonic() + limit_s
        self._thread.join(limit_s + 0.5)
        if len(self._pending):
            log.error("%d messages were not written to %s", len(self._pending), self._job.outbox)
        elif self._outbox is not None and self._outbox.waiting:
            log.warning("%d messages wait in the outbox for the next start", self._outbox.waiting)
        if self._outbox is not None and not self._thread.is_alive():
            self._outbox.close()

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        while True:
            ending = self._deadline is not None
            written = self._write()
            sent = await self._publish() if written else 0
            if ending:
                self._write()
                done = not self._outbox or not self._outbox.waiting
                if done or not sent or time.monotonic() >= (self._deadline or 0.0):
                    break
            elif sent < BATCH:
                await asyncio.sleep(TURN_S if written else RETRY_S)
        if self._client is not None:
            with contextlib.suppress(*FAULTS):
                await self._client.close()

    # The outbox -------------------------------------------------------------------------------

    def _opened(self) -> Outbox:
        job = self._job
        return Outbox(job.outbox, job.site, job.box, job.outbox_bytes)

    def _write(self) -> bool:
        """Write what waits and remove what was accepted; False if the file cannot be written."""
        try:
            if self._outbox is not None and not self._outbox.in_place():
                log.warning("%s was removed or replaced; a new outbox is made", self._job.outbox)
                self._dropped += self._outbox.dropped
                self._outbox.close()
                self._outbox = None
            if self._outbox is None:
                self._outbox = self._opened()
                self._accepted.clear()
            while (batch := self._pending.take(BATCH)) or self._accepted:
                self._outbox.commit(batch, self._accepted, self._sequence)
                self._accepted.clear()
                self._pending.written()
        except (sqlite3.Error, OSError, UserError, DeviceError) as error:
            self._pending.failed()
            if not self._unwritten:
                log.error(
                    "outbox %s cannot be written, next try in %g s: %s",
                    *(self._job.outbox, RETRY_S, error),
                )
            self._unwritten = True
            return False
        if self._unwritten:
            log.warning("outbox %s is written again", self._job.outbox)
        self._unwritten = False
        return True

    # The server -------------------------------------------------------------------------------

    async def _publish(self) -> int:
        """Publish the oldest messages; the number that the server has accepted."""
        assert self._outbox is not None
        waiting = self._outbox.oldest(BATCH)
        self._oldest = waiting[0].at if waiting else None
        if not waiting or (time.monotonic() < self._retry and self._deadline is None):
            return 0
        try:
            client = await self._connected()
            answers = await asyncio.gather(
                *(self._publish_one(client, one) for one in waiting), return_exceptions=True
            )
        except (*FAULTS, UserError) as error:
            self._failed(error, 1)
            return 0
        faults = [one for one in answers if isinstance(one, BaseException)]
        for one in faults:
            if not isinstance(one, FAULTS):
                raise one
        accepted = [
            (one, answer.seq)
            for one, answer in zip(waiting, answers, strict=True)
            if isinstance(answer, PubAck)
        ]
        self._accepted += [one for one, _ in accepted]
        self._sequence = max((seq for _, seq in accepted), default=self._sequence)
        self.published += len(accepted)
        if faults:
            self._failed(faults[0], len(faults))
        elif self._failing:
            log.info("results are published to %s again", self._job.server.url)
            self._failing = False
        return len(accepted)

    async def _publish_one(self, client: Client, one: Waiting) -> PubAck:
        assert self._outbox is not None
        headers = {"Nats-Msg-Id": one.id, NUMBER_HEADER: f"{self._outbox.id}/{one.number}"}
        return await client.jetstream().publish(one.subject, one.body, ACK_S, headers=headers)

    async def _connected(self) -> Client:
        if self._client is None or self._client.is_closed:
            self._client = await open_client(
                self._job.server, f"box {self._job.site}.{self._job.box}"
            )
            self._stream_ready = False
        if not self._stream_ready and self._job.stream_bytes is not None:
            assert self._outbox is not None
            await ensure_box_stream(self._client, self._job, self._outbox.sequence)
        self._stream_ready = True
        return self._client

    def _failed(self, error: BaseException, number: int) -> None:
        self.failed += number
        self._retry = time.monotonic() + RETRY_S
        self._stream_ready = False
        if not self._failing:
            log.warning(
                "results cannot be published to %s, trying again: %s",
                *(self._job.server.url, cause(error)),
            )
        self._failing = True
