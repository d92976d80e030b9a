"""Which box has no contact, no sound, is muted or is unlike the others, by the newest messages."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.errors import TimeoutError as NoMoreError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from speech_emotion.common.nats_server import NatsServer
from speech_emotion.common.wire import public
from speech_emotion.common.wire.codec import ProtocolError
from speech_emotion.common.wire.states import FINE_STREAMS
from speech_emotion.fleet.messages import BOX, EVENT, HEALTH, HEALTH_S, RESULT, ROOT, STREAM
from speech_emotion.fleet.server import open_client

SILENT_S = 3 * HEALTH_S
LOSSES = ("fleet_dropped", "fleet_unwritten", "fleet_lost")
NO_CONTACT, NO_SOUND, MUTED, OTHER_BUNDLE, OTHER_VERSION, LOSS = FAULT_KINDS = (
    *("no contact", "no sound", "muted", "other bundle", "other version", "losses"),
)
"""Kinds of faults, the worst first."""
FETCH, FETCH_S = 1000, 2.0


@dataclasses.dataclass
class BoxState:
    """What is known of a box.

    Attributes:
        health: its newest `health`; None: none was stored.
        age_s: seconds since that was received; infinite without one.
        bundles: stream → bundle of its newest result.
        muted_since: unix time of its newest event `mute` that says so; None without one.
    """

    site: str
    box: str
    health: dict[str, Any] | None = None
    age_s: float = float("inf")
    bundles: dict[str, str] = dataclasses.field(default_factory=dict)
    muted_since: float | None = None

    @property
    def version(self) -> str | None:
        """Version of its program; None from older ones."""
        return None if self.health is None else self.health.get("version")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is wrong with a box.

    Attributes:
        kind: one of `FAULT_KINDS`.
        detail: what of it, in words; empty where there is no more to say.
        since: unix time at which it began; None where that is not known.
    """

    kind: str
    detail: str = ""
    since: float | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    """A box and its faults, the worst first; none where all is well.

    Attributes:
        bundles: those of its streams, each once.
        version: of its program; None where it is not known.
    """

    site: str
    box: str
    faults: tuple[Fault, ...]
    bundles: tuple[str, ...]
    version: str | None

    def describe(self, now: float) -> str:
        """The line in words.

        Args:
            now: unix time, for how long it has no contact.
        """
        return f"{self.site} {self.box}: {'; '.join(_words(f, now) for f in self.faults) or 'ok'}"


def judge(boxes: Iterable[BoxState], now: float, bundle: str | None = None) -> list[Line]:
    """Each box with what is wrong, the worst ones first. Pure.

    Args:
        now: unix time.
        bundle: the bundle that boxes should have; None: the one that most streams have.
    """
    boxes = list(boxes)
    bundle = bundle or _most(name for one in boxes for name in one.bundles.values())
    version = _most(one.version for one in boxes if one.version is not None)
    lines = []
    for one in boxes:
        faults = sorted(_faults(one, now, bundle, version), key=lambda f: FAULT_KINDS.index(f.kind))
        bundles = tuple(dict.fromkeys(one.bundles.values()))
        lines.append(Line(one.site, one.box, tuple(faults), bundles, one.version))
    return sorted(lines, key=lambda line: (_rank(line), line.site, line.box))


def _most(names: Iterable[str]) -> str | None:
    votes = Counter(names)
    return votes.most_common(1)[0][0] if votes else None


def _rank(line: Line) -> int:
    return FAULT_KINDS.index(line.faults[0].kind) if line.faults else len(FAULT_KINDS)


def _words(fault: Fault, now: float) -> str:
    if fault.kind == LOSS:
        return fault.detail
    if fault.kind == NO_CONTACT:
        if fault.since is None:
            return f"{NO_CONTACT} yet"
        return f"{NO_CONTACT} for {dt.timedelta(seconds=round(now - fault.since))}"
    return f"{fault.kind}: {fault.detail}"


def _faults(box: BoxState, now: float, bundle: str | None, version: str | None) -> Iterable[Fault]:
    if box.health is None:
        yield Fault(NO_CONTACT)
        return
    if box.age_s > SILENT_S:
        yield Fault(NO_CONTACT, since=now - box.age_s)
    elif box.health["mute"] is not None:
        yield Fault(MUTED, box.health["mute"]["text"], box.muted_since)
    for row in box.health["streams"]:
        if row["state"] not in FINE_STREAMS:
            reason = f" ({row['reason']})" if row["reason"] else ""
            since = box.health["time"] - row["state_s"]
            yield Fault(NO_SOUND, f"{row['name']} is {row['state']}{reason}", since)
        if bundle is not None and box.bundles.get(row["name"], bundle) != bundle:
            yield Fault(OTHER_BUNDLE, f"{row['name']} has {box.bundles[row['name']]}")
    if box.version != version and box.version is not None:
        yield Fault(OTHER_VERSION, f"{box.version}, most have {version}")
    counters = box.health["counters"]
    for name in LOSSES:
        if counters.get(name):
            yield Fault(LOSS, f"{name} {counters[name]}")


async def ask(server: NatsServer) -> list[BoxState]:
    """The state of every box that the centre knows.

    Raises:
        UserError: a file of the credentials cannot be used.
        FAULTS: the server is not reached, or has no stream.
    """
    boxes: dict[tuple[str, str], BoxState] = {}
    client = await open_client(server, "fleet status")
    try:
        for place in (f"{BOX}.{HEALTH}", f"{BOX}.{EVENT}", f"*.{RESULT}"):
            for message in await newest(client.jetstream(), f"{ROOT}.*.*.{place}"):
                _, site, box, stream, kind = message.subject.split(".")
                state = boxes.setdefault((site, box), BoxState(site, box))
                try:
                    table = json.loads(message.data)
                    _take(state, kind, stream, table, message.metadata.timestamp)
                except (ValueError, KeyError, TypeError, ProtocolError):
                    continue  # `fleet store` names it in its log
        if client.is_closed:  # a part of the messages would look like boxes without results
            raise ConnectionClosedError
    finally:
        await client.close()
    return [boxes[key] for key in sorted(boxes)]


def _take(
    state: BoxState, kind: str, stream: str, table: dict[str, Any], arrived: dt.datetime
) -> None:
    """Take over the newest message of a subject."""
    if kind == HEALTH:
        public.from_json_map(HEALTH, table)  # raises where it is none
        state.health = {"mute": None, **table}
        state.age_s = (dt.datetime.now(dt.UTC) - arrived).total_seconds()
    elif kind == RESULT:
        state.bundles[stream] = str(table["bundle"])
    elif table["event"] == "mute" and table["muted"]:
        state.muted_since = float(table["time"])


async def newest(js: Any, subject: str) -> list[Msg]:
    """The newest message of every subject."""
    consumer = await js.pull_subscribe(
        subject,
        stream=STREAM,
        config=ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            inactive_threshold=30.0,
            mem_storage=True,
        ),
    )
    left = (await consumer.consumer_info()).num_pending or 0
    messages: list[Msg] = []
    while left > 0:
        try:
            found = await consumer.fetch(min(FETCH, left), timeout=FETCH_S)
        except NoMoreError:
            break
        messages += found
        left = found[-1].metadata.num_pending
    return messages
