"""Streams of JetStream: their definitions, and how they are made or changed.

Definitions are those of the server's interface, in nanoseconds and bytes.
"""

from __future__ import annotations

import json
import time
from typing import Any

import nats.js.errors
from nats.aio.client import Client

from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.fleet.messages import DUPLICATE_S, ROOT, STREAM

CENTRE = "centre"
"""JetStream domain of the centre's server."""
NS = 1_000_000_000
REPLY_S = 10.0
NOT_FOUND = 10059
"""Error code of the server: there is no such stream."""


def definition(subjects: list[str], max_bytes: int | None, max_age_s: float) -> dict[str, Any]:
    """A stream in files that drops its oldest messages."""
    return {
        "name": STREAM,
        "subjects": subjects,
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_bytes": -1 if max_bytes is None else max_bytes,
        "max_age": round(max_age_s * NS),
        "duplicate_window": round(min(DUPLICATE_S, max_age_s) * NS),
        "num_replicas": 1,
    }


def source_of(site: str, box: str) -> dict[str, Any]:
    """The stream of a box as a source of the centre's; only the box's own subjects are taken."""
    return {
        "name": STREAM,
        "filter_subject": f"{ROOT}.{site}.{box}.>",
        "external": {"api": f"$JS.{domain(site, box)}.API", "deliver": ""},
    }


def domain(site: str, box: str) -> str:
    """JetStream domain of a box's server. `=` is in no name, so two boxes never share one."""
    return f"{site}={box}"


async def apply(client: Client, wanted: dict[str, Any]) -> bool:
    """Make a stream, or change it where it differs; whether it was made.

    Raises:
        nats.js.errors.APIError: the server refuses it.
        server.FAULTS: no answer.
    """
    name = wanted["name"]
    try:
        found = await _ask(client, f"STREAM.INFO.{name}", {})
    except nats.js.errors.APIError as error:
        if error.err_code != NOT_FOUND:
            raise
        await _ask(client, f"STREAM.CREATE.{name}", wanted)
        return True
    present = found["config"]
    changed = {**present, **{key: item for key, item in wanted.items() if key != "first_seq"}}
    if changed != present:
        await _ask(client, f"STREAM.UPDATE.{name}", changed)
    return False


async def ensure_box_stream(client: Client, job: FleetJob, sequence: int) -> None:
    """Make the stream of a box's own server, or change it to the configuration.

    Args:
        sequence: greatest sequence number that the server has given. A stream that was lost is
            made with greater ones: the centre continues at the number after the last it has.
    """
    wanted = definition([f"{ROOT}.{job.site}.{job.box}.>"], job.stream_bytes, job.stream_s)
    await apply(client, {**wanted, "first_seq": max(sequence + 1, round(time.time() * 1000))})


async def _ask(client: Client, subject: str, request: dict[str, Any]) -> dict[str, Any]:
    answer = await client.request(f"$JS.API.{subject}", json.dumps(request).encode(), REPLY_S)
    table: dict[str, Any] = json.loads(answer.data)
    if "error" in table:
        raise nats.js.errors.APIError.from_error(table["error"])
    return table
