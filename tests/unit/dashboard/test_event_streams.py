"""Event streams: what a client is too slow to get is declared and counted."""

from __future__ import annotations

import asyncio
import json

from speech_emotion.dashboard.api.events import EventStreams, Wanted
from speech_emotion.dashboard.live.event_log import KEPT_S, EventLog
from speech_emotion.dashboard.live.live_state import LiveState
from speech_emotion.dashboard.messages import Service

SERVICE = Service("1", "ipc:///results", history=False, mute=False, recent_s=300.0)


def events_of(text: str) -> list[tuple[str, dict[str, object]]]:
    """Kind and data of the events in a body."""
    blocks = [dict(line.split(": ", 1) for line in one.splitlines()) for one in text.split("\n\n")]
    return [(one["event"], json.loads(one["data"])) for one in blocks if "event" in one]


def test_events_that_are_no_longer_kept_are_declared_and_counted() -> None:
    log = EventLog()
    for second in range(int(KEPT_S) + 11):  # the newest KEPT_S + 1 are kept
        log.append("result", "main", "{}", float(second))
    streams = EventStreams(log, LiveState(SERVICE))

    async def body() -> str:
        wanted = Wanted(("result",), None, log.name(2), wait=False)
        return "".join([text async for text in streams.body(wanted, lambda: True)])

    (first, data), *results = events_of(asyncio.run(body()))
    assert (first, data["missed"]) == ("gap", 8)
    assert len(results) == int(KEPT_S) + 1
    assert streams.missed == 8
