"""Reads the centre's stream into a store folder, every message once.

The place in the stream is kept in the folder, in the same step as the rows: what is not on the disk
is read again, and nothing twice. A connection that breaks costs no message: the consumer delivers
in order and is numbered; after a hole it is made anew at the last message that arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nats.errors
import nats.js.errors
import pyarrow as pa
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext

from speech_emotion.common.errors import printable
from speech_emotion.common.nats_server import NatsServer
from speech_emotion.fleet.messages import NUMBER_HEADER, STREAM
from speech_emotion.fleet.server import FAULTS, cause, open_client
from speech_emotion.fleet.store.folder import StoreFolder
from speech_emotion.fleet.store.rows import RefusedError, row_of, table_of

log = logging.getLogger("fleet store")

FETCH = 2000
FETCH_S = 1.0
RETRY_S = 2.0
MAX_ROWS = 50_000
"""Rows of one batch."""
INACTIVE_S = 300.0
"""The server removes a consumer that was not used for this long."""


@dataclasses.dataclass
class Counts:
    """What one run has done."""

    stored: int = 0
    repeated: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return f"{self.stored} rows stored, {self.repeated} repeated, {self.refused} refused"


class StreamReader:
    """Stores the stream until it is stopped.

    Args:
        server: the centre.
        folder: where rows go.
        every_s: longest time in seconds until a message is on the disk.
        once: end when all is stored.

    Attributes:
        counts: of this run.
        stopping: set it to store what has arrived, and end.
    """

    def __init__(
        self, server: NatsServer, folder: StoreFolder, every_s: float, *, once: bool = False
    ) -> None:
        self.counts = Counts()
        self.stopping = asyncio.Event()
        self._server = server
        self._folder = folder
        self._every_s = every_s
        self._once = once
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._number = 0
        self._read = folder.state.sequence
        self._due = 0.0
        self._failing = False

    async def run(self) -> None:
        """Read and store.

        Raises:
            UserError: a file of the server's credentials cannot be used.
            FAULTS: with `once`, the server is not reached.
        """
        client: Client | None = None
        while not self.stopping.is_set():
            try:
                if client is None or client.is_closed:
                    client = await open_client(self._server, "fleet store")
                if await self._read_on(client):
                    break
            except FAULTS as error:
                if self._once:
                    raise
                if not self._failing:
                    log.warning(
                        "the stream cannot be read, next try in %g s: %s", RETRY_S, cause(error)
                    )
                self._failing = True
                await self._pause(RETRY_S)
        while self._number and not self._flush():
            await asyncio.sleep(RETRY_S)
        if client is not None:
            await client.close()

    async def _read_on(self, client: Client) -> bool:
        """Read until the consumer has a hole, or all is stored; True where it is all."""
        js = client.jetstream()
        info = await js.stream_info(STREAM)
        created = str(info.created)
        if created != self._folder.state.created:  # the stream was made anew
            self._folder.state.created, self._read = created, 0
        if self._failing:
            log.info("the stream is read again")
        self._failing = False
        if self._once and info.state.last_seq <= self._read:
            return True
        consumer = await self._consumer(js)
        expected = 1
        try:
            while not self.stopping.is_set():
                messages: list[Msg] = []
                with contextlib.suppress(nats.errors.TimeoutError):
                    messages = await consumer.fetch(FETCH, timeout=FETCH_S)
                pending = 1 if not messages else messages[-1].metadata.num_pending
                for message in messages:
                    if message.metadata.sequence.consumer != expected:
                        return False
                    expected += 1
                    self._add(message)
                full = self._number >= MAX_ROWS
                if full or (self._number and time.monotonic() >= self._due):
                    while not self._flush():
                        await self._pause(RETRY_S)
                        if self.stopping.is_set():
                            return False
                if self._once and pending == 0:
                    return True
                if not messages and client.is_closed:
                    return False
            return False
        finally:
            with contextlib.suppress(*FAULTS):
                await consumer.unsubscribe()

    async def _consumer(self, js: JetStreamContext) -> JetStreamContext.PullSubscription:
        return await js.pull_subscribe(
            "",
            stream=STREAM,
            config=ConsumerConfig(
                ack_policy=AckPolicy.NONE,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._read + 1,
                inactive_threshold=INACTIVE_S,
                mem_storage=True,
            ),
        )

    def _add(self, message: Msg) -> None:
        metadata, headers = message.metadata, message.headers or {}
        self._read = metadata.sequence.stream
        if not self._number:
            self._due = time.monotonic() + self._every_s
        self._number += 1
        outbox, _, number = headers.get(NUMBER_HEADER, "").partition("/")
        box = ".".join(message.subject.split(".")[1:3])
        try:
            if not outbox or not number.isdecimal():
                raise RefusedError(f"{message.subject}: no {NUMBER_HEADER}")
            if not self._folder.state.numbers.add(box, outbox, int(number)):
                self.counts.repeated += 1
                return
            message_id = headers.get("Nats-Msg-Id", "")
            row = row_of(message.subject, message_id, message.data, metadata.timestamp)
        except RefusedError as error:
            self.counts.refused += 1
            log.warning("a message is refused: %s", printable(str(error)))
            return
        self._rows.setdefault(row.partition, []).append(row.values)

    def _flush(self) -> bool:
        """Write a batch; False where the disk refuses it."""
        tables: dict[str, pa.Table] = {}
        refused = 0
        for partition, rows in self._rows.items():
            table, unfit = table_of(partition.partition("/")[0], rows)
            refused += unfit
            if table.num_rows:
                tables[partition] = table
        self._folder.state.sequence = self._read
        try:
            self._folder.write(tables)
        except OSError as error:
            log.error("%s cannot be written, next try in %g s: %s", error.filename, RETRY_S, error)
            return False
        self.counts.refused += refused
        self.counts.stored += sum(table.num_rows for table in tables.values())
        self._rows.clear()
        self._number = 0
        try:
            self._folder.compact(tables)
        except OSError as error:
            log.warning("%s cannot be compacted: %s", error.filename, error)
        return True

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)


def store(
    server: NatsServer, path: Path, every_s: float, *, once: bool
) -> tuple[Counts, Counter[str]]:
    """Run a reader until SIGTERM or SIGINT; what it has done, and what is missing by box.

    Raises:
        UserError: folder or credentials cannot be used.
        FAULTS: with `once`, the server is not reached.
    """
    import signal

    async def run() -> Counts:
        reader = StreamReader(server, folder, every_s, once=once)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, reader.stopping.set)
        await reader.run()
        return reader.counts

    with StoreFolder(path) as folder:
        counts = asyncio.run(run())
        return counts, Counter(folder.state.numbers.missing())
