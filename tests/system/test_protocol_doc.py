"""docs/PROTOCOL.md against the dataclasses and against what a real pipeline puts on the socket."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from speech_emotion.common.hub import ledger, publisher
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire import codec, connections, public
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS
from speech_emotion.supervision.restart_policy import ProcessState
from tests.support.pipelines import ROOT, Running

PAGE = (ROOT / "docs" / "PROTOCOL.md").read_text()
SECTIONS = {
    title.replace("`", ""): text
    for title, text in re.findall(r"^##+ (.+)\n((?:(?!^##+ )[^\n]*\n)*)", PAGE, re.MULTILINE)
}
MESSAGES: dict[str, type[codec.Message]] = {
    "result/STREAM": public.Result,
    "utterance/STREAM": public.Utterance,
    "A prosody": public.Prosody,
    "info/STREAM": public.Info,
    "health": public.Health,
    "A mute": public.Mute,
    "A stage": public.StageHealth,
    "A stream": public.StreamHealth,
}
TYPES: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: type(value) is str,
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) is float,
    "bool": lambda value: type(value) is bool,
    "list of str": lambda value: all(type(item) is str for item in value),
    "map of str to float": lambda value: all(
        type(key) is str and type(item) is float for key, item in value.items()
    ),
    "map of str to int": lambda value: all(
        type(key) is str and type(item) is int for key, item in value.items()
    ),
    "mute": lambda value: fits(value, "A mute"),
    "prosody": lambda value: fits(value, "A prosody"),
    "list of stages": lambda value: all(fits(row, "A stage") for row in value),
    "list of streams": lambda value: all(fits(row, "A stream") for row in value),
}


def table(section: str) -> dict[str, list[str]]:
    """The cells of a section's table behind the first, by the first."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert rows
    assert all(len(row) == len(rows[0]) for row in rows)
    return {row[0].replace("`", ""): row[1:] for row in rows}


def named(section: str, key: str) -> set[str]:
    """The values that the meaning of a key names."""
    return set(re.findall(r"`(\w+)`", table(section)[key][1]))


def described(hint: Any) -> str:
    """A type hint as the page writes it."""
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        (inner,) = (a for a in arguments if a is not type(None))
        return described(inner) + (", or nil" if typing.get_args(inner) else " or nil")
    if typing.get_origin(hint) is dict:
        return f"map of {described(arguments[0])} to {described(arguments[1])}"
    if typing.get_origin(hint) is list:
        return f"list of {described(arguments[0])}"
    names: dict[Any, str] = {
        public.StageHealth: "stages",
        public.StreamHealth: "streams",
        public.Mute: "mute",
        public.Prosody: "prosody",
    }
    return names.get(hint, str(hint.__name__))


def fits(message: dict[str, Any], section: str) -> bool:
    """Assert that a message is a map of just the keys of a section, each of its type."""
    rows = table(section)
    absent = {key for key, (_, meaning) in rows.items() if "absent" in meaning} - set(message)
    assert list(message) == [key for key in rows if key not in absent]
    for key, (kind, _) in rows.items():
        if key in absent:
            continue
        plain = re.sub(r",? or nil$", "", kind)
        if message[key] is None:
            assert plain != kind, f"{key} is nil"
        else:
            assert TYPES[plain](message[key]), f"{key} is {message[key]!r}, not {kind}"
    return True


@pytest.mark.parametrize("section", MESSAGES)
def test_tables_are_the_dataclasses(section: str) -> None:
    cls = MESSAGES[section]
    hints = typing.get_type_hints(cls)
    fields = {field.name: described(hints[field.name]) for field in dataclasses.fields(cls)}
    assert {key: kind for key, (kind, _) in table(section).items()} == fields
    assert list(table(section)) == list(fields)


def test_topics_states_counters_and_limits_are_those_of_the_code() -> None:
    assert {topic.partition("/")[0] for topic in table("Topics")} == set(public.PUBLIC)
    assert list(table("Every message")) == ["v", "replay"]
    assert f"protocol version, {codec.VERSION}" in table("Every message")["v"]
    states = {state.value for state in ProcessState}
    assert states <= named("A stage", "state")
    sources = {state.value for state in SourceState}
    assert sources | {"ended"} == named("A stream", "state")
    assert {*FINE_STAGES, *FINE_STREAMS} < named_anywhere("How fresh it is")
    documented = {name for row in table("Counters") for name in row.split(", ")}
    assert documented == counters_in_the_code()
    assert [cell for (cell,) in table("Limits").values()] == [
        f"{codec.MAX_FRAME} bytes",
        f"{codec.MAX_TEXT} bytes",
        f"{codec.MAX_INT}",
        f"{codec.MAX_ITEMS}",
        f"{publisher.SUBSCRIBER_HIGH_WATER_MARK}",
        f"{connections.MAX_CONNECTIONS}",
        f"{publisher.MAX_PREFIX} bytes",
        f"{publisher.MAX_PREFIXES}",
        f"{publisher.MAX_ALL_PREFIXES}",
        f"{publisher.MAX_REQUESTS}",
        f"{publisher.REQUESTS_PER_S:g}",
        f"{publisher.REPLAYS_PER_S:g}",
    ]


def named_anywhere(section: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", SECTIONS[section]))


COUNTER = (
    r'(?<=counters\[")\w+(?="\])|(?<=counter\(")\w+|(?<=count\(")\w+'
    r'|(?<=[{ ]")capture_\w+(?=": )'
)
"""Names of counters: set by name, or keys of the counters that a source gives."""


def counters_in_the_code() -> set[str]:
    found = {f"results_{verdict.value}" for verdict in ledger.Verdict}
    folders = (
        "alerts",
        "capture",
        "features",
        "infer",
        "common",
        "dashboard",
        "fleet",
        "supervision",
    )
    for path in (ROOT / "supervisor.py", *(p for f in folders for p in (ROOT / f).rglob("*.py"))):
        found |= set(re.findall(COUNTER, path.read_text()))
    return found


def test_examples_are_messages() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    topics = []
    for block in blocks:
        example = json.loads(block)
        (topic,) = (
            name
            for name, cls in public.PUBLIC.items()
            if [f.name for f in dataclasses.fields(cls)] == [k for k in example if k != "v"]
        )
        stream = f"/{example['stream']}" if "stream" in example else ""
        message, replay = public.decode_public(
            f"{topic}{stream}".encode(),
            msgpack.packb(example),
        )
        assert not replay
        assert public.to_json_map(message) == example
        topics.append(topic)
    assert topics == list(public.PUBLIC)


def complete(raw: list[list[bytes]]) -> bool:
    """Whether there is a message of each kind, and a replay of a result."""
    kinds = {topic.partition(b"/")[0].decode() for topic, _ in raw}
    replays = [topic for topic, payload in raw if msgpack.unpackb(payload).get("replay")]
    return kinds == set(public.PUBLIC) and b"result/main" in replays


def test_a_real_pipeline_says_what_the_page_says(
    supervise: Callable[..., Running], clip: Callable[..., Path]
) -> None:
    running = supervise(f"--source=file:{clip(50.0)}", f"--source=file:{clip(3.0, name='short')}")
    context = zmq.Context()
    socket: zmq.Socket[bytes] = context.socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(running.endpoint)
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    socket.subscribe(b"result/main")  # once more: its last value comes again
    raw: list[list[bytes]] = []
    stopped = False
    while running.process.poll() is None or socket.poll(500):
        if socket.poll(50):
            raw.append(socket.recv_multipart())
        if not stopped and complete(raw):
            running.process.terminate()
            stopped = True
    context.destroy(linger=0)
    code, stderr, _ = running.ended()
    assert code == 0, stderr

    seen: dict[str, list[dict[str, Any]]] = {}
    for topic, payload in raw:
        message = msgpack.unpackb(payload)
        kind, _, stream = topic.decode().partition("/")
        assert message.pop("v") == codec.VERSION
        assert message.pop("replay", None) in (None, True)
        if kind != "health":
            assert message["stream"] == stream
        section = kind if kind == "health" else f"{kind}/STREAM"
        assert fits(message, section)
        seen.setdefault(section, []).append(message)
    assert set(seen) == set(table("Topics"))
    assert any(msgpack.unpackb(payload).get("replay") for _, payload in raw)

    for result in seen["result/STREAM"]:
        assert result["state"] in named("result/STREAM", "state")
        assert result["reason"] is None or result["reason"] in named("result/STREAM", "reason")
        assert result["timing_ms"].keys() == named("result/STREAM", "timing_ms")
    documented = {name for row in table("Counters") for name in row.split(", ")}
    for health in seen["health"]:
        assert health["state"] in named("health", "state")
        assert set(health["counters"]) <= documented
        for stage in health["stages"]:
            assert stage["state"] in named("A stage", "state")
            assert stage["name"] in named("A stage", "name")
        for stream in health["streams"]:
            assert stream["state"] in named("A stream", "state")
