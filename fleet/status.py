"""Which box has no contact, no sound, is muted or has another bundle, by the newest messages."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from nats.aio.msg import Msg
from nats.errors import TimeoutError as NoMoreError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from speech_emotion.common.nats_server import NatsServer
from speech_emotion.common.wire.states import FINE_STREAMS
from speech_emotion.fleet.messages import BOX, HEALTH, HEALTH_S, RESULT, ROOT, STREAM
from speech_emotion.fleet.server import open_client

SILENT_S = 3 * HEALTH_S
LOSSES = ("fleet_dropped", "fleet_unwritten", "fleet_lost")
FETCH, FETCH_S = 1000, 2.0


@dataclasses.dataclass
class BoxState:
    """What is known of a box.

    Attributes:
        health: its newest `health`; None: none was stored.
        age_s: seconds since that was received; infinite without one.
        bundles: stream → bundle of its newest result.
    """

    site: str
    box: str
    health: dict[str, Any] | None = None
    age_s: float = float("inf")
    bundles: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Line:
    """A box and its faults, the worst first; none where all is well."""

    site: str
    box: str
    faults: tuple[str, ...]


def judge(boxes: Iterable[BoxState], bundle: str | None = None) -> list[Line]:
    """Each box with what is wrong. Pure.

    Args:
        bundle: the bundle that boxes should have; None: the one that most streams have.
    """
    boxes = list(boxes)
    votes = Counter(name for one in boxes for name in one.bundles.values())
    if bundle is None and votes:
        bundle = votes.most_common(1)[0][0]
    return [Line(one.site, one.box, tuple(_faults(one, bundle))) for one in boxes]


def _faults(box: BoxState, bundle: str | None) -> Iterable[str]:
    if box.health is None:
        yield "no contact yet"
        return
    if box.age_s > SILENT_S:
        yield f"no contact for {dt.timedelta(seconds=round(box.age_s))}"
    elif box.health["mute"] is not None:
        yield f"muted: {box.health['mute']['text']}"
    for row in box.health["streams"]:
        if row["state"] not in FINE_STREAMS:
            reason = f" ({row['reason']})" if row["reason"] else ""
            yield f"no sound: {row['name']} is {row['state']}{reason}"
        if bundle is not None and box.bundles.get(row["name"], bundle) != bundle:
            yield f"other bundle: {row['name']} has {box.bundles[row['name']]}"
    counters = box.health["counters"]
    for name in LOSSES:
        if counters.get(name):
            yield f"{name} {counters[name]}"


async def ask(server: NatsServer) -> list[BoxState]:
    """The state of every box that the centre knows.

    Raises:
        UserError: a file of the credentials cannot be used.
        FAULTS: the server is not reached, or has no stream.
    """
    boxes: dict[tuple[str, str], BoxState] = {}
    client = await open_client(server, "fleet status")
    try:
        for kind in (HEALTH, RESULT):
            for message in await newest(client.jetstream(), f"{ROOT}.*.*.*.{kind}"):
                _, site, box, stream, _ = message.subject.split(".")
                state = boxes.setdefault((site, box), BoxState(site, box))
                table = json.loads(message.data)
                if stream == BOX:
                    state.health = table
                    age = dt.datetime.now(dt.UTC) - message.metadata.timestamp
                    state.age_s = age.total_seconds()
                else:
                    state.bundles[stream] = table["bundle"]
    finally:
        await client.close()
    return [boxes[key] for key in sorted(boxes)]


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
