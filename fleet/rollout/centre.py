"""The centre of a roll-out: plan and orders in a key-value bucket, bundles in an object store.

The plan is in the bucket, so that a command that was killed continues, and other commands can show
and stop it. A change of the plan is refused where another command has changed it meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import nats.js.errors
from nats.aio.client import Client
from nats.js.api import StorageType

from speech_emotion.common.errors import UserError
from speech_emotion.common.nats_server import NatsServer
from speech_emotion.fleet.messages import EVENT, ROLLOUT, ROOT
from speech_emotion.fleet.rollout.orders import BUCKET, NONE, OBJECTS, Report, key_of, signed
from speech_emotion.fleet.rollout.plan import RUNNING, Plan, decode, encode, judge, shown, words
from speech_emotion.fleet.server import FAULTS, cause, open_client
from speech_emotion.fleet.status import newest

PLAN = "plan"
"""Key of the plan."""
TURN_S = 0.5
BOXES_A_SECOND = 1000
"""Reports that are read in a second; more boxes are asked less often."""
LOST_S = 60.0
"""Longest time without the server of the centre."""
Say = Callable[[str], None]


class Centre:
    """A connection. Use `opened`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._js = client.jetstream()
        self._bucket: Any = None

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, server: NatsServer) -> AsyncIterator[Centre]:
        """Connect, and make the bucket where it does not exist.

        Raises:
            UserError: a file of the credentials cannot be used.
            FAULTS: the server is not reached, or refuses.
        """
        client = await open_client(server, "fleet rollout")
        try:
            centre = cls(client)
            await centre._open()
            yield centre
        finally:
            await client.close()

    async def _open(self) -> None:
        try:
            self._bucket = await self._js.key_value(BUCKET)
        except nats.js.errors.BucketNotFoundError:
            self._bucket = await self._js.create_key_value(
                bucket=BUCKET, history=1, direct=True, storage=StorageType.FILE
            )

    async def plan(self) -> tuple[Plan | None, int]:
        """The newest plan and its revision; None and 0 before the first one."""
        try:
            entry = await self._bucket.get(PLAN)
        except nats.js.errors.KeyNotFoundError:
            return None, 0
        try:
            return decode(entry.value), entry.revision
        except (ValueError, TypeError, KeyError):
            raise UserError(
                "the roll-out on the centre is of another version of this program"
            ) from None

    async def write(self, plan: Plan, revision: int) -> None:
        """Replace the plan.

        Raises:
            UserError: another command has changed it since `revision`.
        """
        try:
            await self._bucket.update(PLAN, encode(plan), last=revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            raise UserError(
                "another command has changed the roll-out meanwhile; see `fleet rollout status`"
            ) from None

    async def give(self, plan: Plan, names: Iterable[str], seed: bytes, action: str | None) -> None:
        """Give boxes their orders. An order that a box has carried out already changes nothing."""
        for name in names:
            order = plan.order(name, action)
            await self._bucket.put(key_of(order.site, order.box), signed(order, seed))

    async def reports(self) -> dict[str, Report]:
        """Box → its newest report."""
        found = {}
        for message in await newest(self._js, f"{ROOT}.*.*.{ROLLOUT}.{EVENT}"):
            _, site, box, _, _ = message.subject.split(".")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found[f"{site}.{box}"] = Report.from_table(json.loads(message.data))
        return found

    async def upload(self, name: str, content: bytes) -> str:
        """Store an archive, in place of all others; the name of its chunks.

        Args:
            name: of the object.
        """
        try:
            store = await self._js.object_store(OBJECTS)
        except nats.js.errors.BucketNotFoundError:
            store = await self._js.create_object_store(OBJECTS, storage=StorageType.FILE)
        try:
            present = await store.list(ignore_deletes=True)
        except nats.js.errors.NotFoundError:
            present = []
        for info in present:
            if info.name != name:
                await store.delete(info.name)
            elif info.size == len(content) and info.nuid:
                return str(info.nuid)
        return str((await store.put(name, content)).nuid)


async def drive(
    server: NatsServer, number: int, seed: bytes, say: Say
) -> tuple[Plan, dict[str, Report]]:
    """Bring a roll-out to its end: begin waves, wait for reports, stop where a box fails.

    Args:
        number: of the roll-out.
        seed: of the key that signs.
        say: takes one line for each event.

    Returns:
        The plan and the newest reports.

    Raises:
        UserError: another roll-out was begun, or the server was away for `LOST_S`.
    """
    told: dict[str, Report] = {}
    reached = time.monotonic()
    while True:
        try:
            async with Centre.opened(server) as centre:
                repeat = True
                while True:
                    plan, reports = await _turn(centre, number, seed, say, told, repeat=repeat)
                    reached, repeat = time.monotonic(), False
                    if plan.state != RUNNING:
                        return plan, reports
                    await asyncio.sleep(max(TURN_S, len(plan.ordered) / BOXES_A_SECOND))
        except FAULTS as error:
            if time.monotonic() - reached > LOST_S:
                raise UserError(
                    f"{server.url}: {cause(error)}; the roll-out goes no further: give the same "
                    "command again"
                ) from None
            await asyncio.sleep(TURN_S)


async def _turn(
    centre: Centre, number: int, seed: bytes, say: Say, told: dict[str, Report], *, repeat: bool
) -> tuple[Plan, dict[str, Report]]:
    plan, revision = await centre.plan()
    if plan is None or plan.number != number:
        raise UserError("another roll-out was begun meanwhile; see `fleet rollout status`")
    reports = await centre.reports()
    for name in plan.ordered:
        report = reports.get(name)
        if report is not None and report.number == number and told.get(name) != report:
            told[name] = report
            say(f"{shown(name)}: {words(report)}")
    own = {name for name in plan.ordered if reports.get(name, Report()).number == number}
    if plan.state != RUNNING:  # another command has stopped it
        return plan, reports
    judged = judge(plan, reports, time.time())
    if judged is not plan:
        await centre.write(judged, revision)
    if judged.state == RUNNING and (judged.begun > plan.begun or repeat):
        # Also after a kill between the plan and the orders.
        await centre.give(judged, [name for name in judged.wave if name not in own], seed, None)
    if judged.begun > plan.begun:
        names = ", ".join(map(shown, judged.wave))
        say(f"wave {judged.begun} of {len(judged.waves)}: {names}")
    if judged.state != RUNNING:
        await withdraw(centre, judged, reports, seed)
    return judged, reports


async def withdraw(centre: Centre, plan: Plan, reports: dict[str, Report], seed: bytes) -> None:
    """Take the order back from boxes that have not begun; the others end what they do."""
    idle = [name for name in plan.ordered if reports.get(name, Report()).number != plan.number]
    await centre.give(plan, idle, seed, NONE)


def archive_name(content: bytes) -> str:
    """Name of an archive in the object store: its hash."""
    return hashlib.sha256(content).hexdigest()
