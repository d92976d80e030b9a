"""Takes bundles on a box: a thread that asks the centre for orders and carries them out.

    order ──► fetch ──► exchange by the supervisor ──► watch ──► taken
                │                 │                      │
                └─► refused ◄─────┘                      └─► rolled back

What is done so far is in a file, so that a process that was killed continues. A start of the
pipeline uses the new bundle only after the watch: until then it uses the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import threading
import time
from typing import Any

from nats.aio.client import Client
from nats.js.errors import NotFoundError

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.rolled_out import RolledOut
from speech_emotion.common.errors import UserError
from speech_emotion.common.nats_server import RolloutOptions
from speech_emotion.common.stage.control import ask
from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.common.wire import public
from speech_emotion.common.wire.control_messages import Swap, Swapped
from speech_emotion.common.wire.states import BUSY, DONE, REFUSED, ROLLED_BACK
from speech_emotion.fleet.rollout.archive import MAX_BYTES, ArchiveError, unpack
from speech_emotion.fleet.rollout.box_state import StateFile
from speech_emotion.fleet.rollout.orders import (
    NONE,
    OBJECTS_STREAM,
    ORDERS_STREAM,
    REASON,
    TAKEN,
    TAKEN_BACK,
    TESTING,
    USE,
    WITHDRAWN,
    Order,
    OrderError,
    Report,
    chunk_subject,
    number_of,
    opened,
    order_subject,
)
from speech_emotion.fleet.rollout.watch import Watch
from speech_emotion.fleet.server import FAULTS, cause, inbox_of, open_client
from speech_emotion.fleet.streams import CENTRE

log = logging.getLogger("fleet")

REQUEST_S = 5.0
BUSY_S = 1.0
TURN_S = 0.1
ATTEMPTS = 3
"""How often a trial that was interrupted is begun: a bundle may be what ended the pipeline."""


class BoxRollout:
    """The thread. `observe` and `report` are for the main thread.

    Raises:
        UserError: the folder or its state cannot be used.
    """

    def __init__(self, job: FleetJob, options: RolloutOptions) -> None:
        self._job, self._options = job, options
        self._file = StateFile(options.folder)
        self._file.remove_others()
        self._refused: Report | None = None
        self._watch: Watch | None = None
        self._client: Client | None = None
        self._failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rollout", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; it ends only after `stop`, or by a fault of the program."""
        return self._thread.is_alive()

    @property
    def report(self) -> Report:
        """What the centre is to be told."""
        return self._refused or self._file.state.report

    def observe(self, message: public.Public, now: float) -> None:
        """Take a message that the pipeline has just published."""
        if (watch := self._watch) is not None:
            watch.feed(message, now)

    def stop(self, limit_s: float) -> None:
        """End the thread. One that waits for the supervisor ends with the process."""
        self._stopping.set()
        self._thread.join(limit_s)

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._turn()
                self._failing = False
            except (*FAULTS, UserError) as error:
                if not self._failing:
                    log.info("roll-outs: no order, trying again: %s", cause(error))
                self._failing = True
            await self._sleep(self._options.poll_s)
        if self._client is not None:
            with contextlib.suppress(*FAULTS):
                await self._client.close()

    async def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.is_set():
            await asyncio.sleep(TURN_S)

    async def _turn(self) -> None:
        state = self._file.state
        if state.order is None:
            order = await self._newest()
            if order is None or order.number <= state.report.number:
                return
            log.info("roll-out %d: %s: %s", order.number, order.action, order.bundle)
            if order.action == NONE:
                self._file.change(report=Report(order.number, WITHDRAWN, order.bundle))
                return
            if order.action == USE and (fault := await self._fetch(order)) is not None:
                self._finish(order, REFUSED, fault)
                return
            report = Report(order.number, TESTING, order.bundle)
            self._file.change(order=order, attempts=0, report=report)
        order = self._file.state.order
        assert order is not None
        await (self._use(order) if order.action == USE else self._go_back(order))

    # The centre -------------------------------------------------------------------------------

    async def _newest(self) -> Order | None:
        """The newest order for this box; None where there is none that can be trusted."""
        job = self._job
        js = await self._js()
        try:
            subject = order_subject(job.site, job.box)
            found = await js.get_msg(ORDERS_STREAM, subject=subject, direct=True)
        except NotFoundError:
            return None
        try:
            order = opened(found.data or b"", self._options.key, job.site, job.box)
        except OrderError as error:
            # It is told, but not kept: its number may be anybody's.
            number = number_of(found.data or b"")
            if self._refused is None or self._refused.number != number:
                log.error("roll-out %d: refused: %s", number, error)
            self._refused = Report(number, REFUSED, reason=str(error))
            return None
        self._refused = None
        return order

    async def _js(self) -> Any:
        if self._client is None or self._client.is_closed:
            job = self._job
            self._client = await open_client(
                job.server,
                f"roll-outs of {job.site}.{job.box}",
                inbox=inbox_of(job.site, job.box),
            )
        return self._client.jetstream(domain=CENTRE, timeout=REQUEST_S)

    async def _fetch(self, order: Order) -> str | None:
        """Have the bundle in its folder; why it is refused, or None.

        Raises:
            FAULTS: the centre is not reached; a later try can succeed.
        """
        folder = self._options.folder / order.digest
        if folder.exists():
            with contextlib.suppress(UserError):
                if load_bundle(folder).digest == order.digest:
                    return None
            shutil.rmtree(folder, ignore_errors=True)
        if not 0 < order.size <= MAX_BYTES:
            return f"its archive has {order.size} bytes; at most {MAX_BYTES} are taken"
        archive = self._options.folder / "archive.tar"
        try:
            file = archive.open("wb")
        except OSError as error:
            return f"{archive}: {error.strerror}"
        try:
            with file:
                digest, sequence, left = hashlib.sha256(), 1, order.size
                while left > 0:
                    data, sequence = await self._chunk(order, sequence)
                    left -= len(data)
                    digest.update(data)
                    if (fault := _written(file, data)) is not None:
                        return fault
            if left < 0 or digest.hexdigest() != order.sha256:
                return "what the object store holds has another hash than the order says"
            try:
                unpack(archive, folder, order.digest)
            except OSError as error:
                return f"{folder}: {error.strerror}"
        except (ArchiveError, NotFoundError) as error:
            gone = "the bundle is not in the object store any more"
            return gone if isinstance(error, NotFoundError) else str(error)
        finally:
            archive.unlink(missing_ok=True)
        return None

    async def _chunk(self, order: Order, sequence: int) -> tuple[bytes, int]:
        """The next chunk, and where the one after it is searched."""
        js = await self._js()
        subject = chunk_subject(order.object)
        found = await js.get_msg(
            OBJECTS_STREAM, seq=sequence, subject=subject, next=True, direct=True
        )
        return found.data or b"", found.seq + 1

    # The supervisor ---------------------------------------------------------------------------

    def _ask(self, order: Order, bundle: str) -> Swapped:
        by = f"roll-out {order.number} of the centre"
        return ask(self._options.control, Swap(bundle, by), Swapped)

    async def _use(self, order: Order) -> None:
        attempts = self._file.state.attempts + 1
        if attempts > ATTEMPTS:
            await self._roll_back(order, f"the trial was interrupted {ATTEMPTS} times")
            return
        self._file.change(attempts=attempts)
        answer = self._ask(order, str(self._options.folder / order.digest))
        if answer.outcome == BUSY:
            self._file.change(attempts=attempts - 1)
        elif answer.outcome != DONE:
            self._finish(order, answer.outcome, answer.reason)
        elif (watch := await self._watched(order)) is None:  # the pipeline ends in order
            self._file.change(attempts=attempts - 1)
        elif watch.fault is not None:
            await self._roll_back(order, watch.fault)
        else:
            self._take(order, "" if watch.tried else "not tried, because no sound arrived")

    async def _watched(self, order: Order) -> Watch | None:
        """The pipeline with the bundle after some time; None where this process has to end."""
        watch = Watch(order.bundle, order.watch_s, order.max_ms, time.monotonic())
        self._watch = watch
        try:
            while not watch.over(time.monotonic()):
                if self._stopping.is_set():
                    return None
                await asyncio.sleep(TURN_S)
        finally:
            self._watch = None
        return watch

    def _take(self, order: Order, note: str) -> None:
        state = self._file.state
        new = RolledOut(order.digest, str(self._options.configured))
        previous = state.previous if state.in_use == new else state.in_use
        self._finish(order, TAKEN, note, in_use=new, previous=previous)

    async def _roll_back(self, order: Order, why: str) -> None:
        answer = await self._ask_patiently(order)
        if answer is None:
            return
        if answer.outcome != DONE:
            why = f"{why}; and the bundle before: {answer.reason}"
        self._finish(order, ROLLED_BACK, why)

    async def _go_back(self, order: Order) -> None:
        state = self._file.state
        if state.in_use is not None and state.in_use.digest == order.digest:
            self._file.change(in_use=state.previous, previous=None)
        answer = await self._ask_patiently(order)
        if answer is None:
            return
        if answer.outcome == DONE:
            self._finish(order, TAKEN_BACK, "")
        else:
            self._finish(
                order,
                answer.outcome,
                answer.reason,
                in_use=state.in_use,
                previous=state.previous,
            )

    async def _ask_patiently(self, order: Order) -> Swapped | None:
        """Have the bundle in use that a start would use; None where this process has to end."""
        while not self._stopping.is_set():
            answer = self._ask(order, "")
            if answer.outcome != BUSY:
                return answer
            await self._sleep(BUSY_S)
        return None

    def _finish(self, order: Order, state: str, reason: str, **changes: Any) -> None:
        report = Report(order.number, state, order.bundle, reason[:REASON])
        self._file.change(order=None, attempts=0, report=report, **changes)
        self._file.remove_others()
        level = logging.INFO if state in (TAKEN, TAKEN_BACK) else logging.ERROR
        words = f": {reason}" if reason else ""
        log.log(level, "roll-out %d: %s: %s%s", order.number, order.bundle, state, words)


def _written(file: Any, data: bytes) -> str | None:
    """Write a chunk; what is wrong with the disk, or None."""
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        return f"{file.name}: {error.strerror}"
    return None
