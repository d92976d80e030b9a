"""The protocol: what is encoded comes back, and any bytes are a message or a ProtocolError."""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.errors import printable
from speech_emotion.common.wire import codec, internal, public
from tests.support.examples import examples
from tests.support.publisher import result

ALL = (*public.PUBLIC.values(), *internal.INTERNAL.values())


def messages(kind: type[codec.Message]) -> st.SearchStrategy[codec.Message]:
    """Any message of one kind, from its annotations."""
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{f.name: values(hints[f.name]) for f in dataclasses.fields(kind)})


def values(hint: Any) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return st.lists(values(arguments[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), values(arguments[1]), max_size=4)
    if type(None) in arguments:
        return st.none() | values(next(a for a in arguments if a is not type(None)))
    if isinstance(hint, type) and issubclass(hint, codec.Message):
        return messages(hint)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-codec.MAX_INT, codec.MAX_INT),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(max_size=20),
        bool: st.booleans(),
        bytes: st.binary(max_size=50),
        Any: st.integers(-5, 5) | st.text(max_size=5) | st.none(),
    }
    return plain[hint]


@given(st.sampled_from(list(internal.INTERNAL.values())).flatmap(messages))
def test_internal_messages_come_back(message: codec.Message) -> None:
    assert internal.decode(internal.encode(message)) == message


@given(st.sampled_from(list(public.PUBLIC.values())).flatmap(messages), st.booleans())
def test_public_messages_come_back(message: Any, replayed: bool) -> None:
    decoded, mark = public.decode_public(*public.encode_public(message, replay=replayed))
    assert (as_printable(public.to_json_map(message)), replayed) == (
        public.to_json_map(decoded),
        mark,
    )


def as_printable(value: Any) -> Any:
    """A value with the control characters of its texts escaped."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): as_printable(item) for key, item in value.items()}
    return [as_printable(item) for item in value] if isinstance(value, list) else value


def test_control_characters_in_public_messages_are_escaped() -> None:
    text = "\x1b]0;title\x07\x9b31m\u202e\n"
    message = dataclasses.replace(result(1), emotion=text, smoothed={text: 1.0}, reason=text)
    decoded, _ = public.decode_public(*public.encode_public(message))
    assert isinstance(decoded, public.Result)
    assert decoded.emotion == decoded.reason == "\\x1b]0;title\\x07\\x9b31m\\u202e\\n"
    assert decoded.smoothed == {decoded.emotion: 1.0}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_refused(frame: bytes) -> None:
    for decode in (internal.decode, lambda raw: public.decode_public(b"result/main", raw)):
        with contextlib.suppress(codec.ProtocolError):
            decode(frame)


@given(st.sampled_from(ALL).flatmap(messages), st.data())
def test_mutated_messages_are_messages_or_refused(message: Any, data: st.DataObject) -> None:
    is_public = type(message) in public.PUBLIC.values()
    frame = bytearray(public.encode_public(message)[1] if is_public else internal.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    try:
        if is_public:
            public.decode_public(message.topic.encode(), cut)
        else:
            internal.decode(cut)
    except codec.ProtocolError:
        pass


@given(st.sampled_from(ALL).flatmap(messages), st.data())
def test_what_a_decoder_lets_pass_can_be_sent_on(message: Any, data: st.DataObject) -> None:
    """The hub passes on what it took, so nothing decoded may fail to encode."""
    table = public.to_json_map(message)
    anything = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.none()
    table[data.draw(st.sampled_from([*sorted(table), "other"]))] = data.draw(anything)
    is_public = type(message) in public.PUBLIC.values()
    try:
        if is_public:
            taken, _ = public.decode_public(message.topic.encode(), msgpack.packb(table))
        else:
            taken = internal.decode(
                codec.framed(msgpack.packb({**table, "t": type(message).__name__}))
            )
    except codec.ProtocolError:
        return
    if isinstance(taken, public.Result | internal.Window):
        assert taken.next_seq > taken.seq
    again: Any = taken
    assert (
        public.decode_public(*public.encode_public(again))[0] == taken
        if is_public
        else internal.encode(taken)
    )


@given(st.recursive(st.none() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_msgpack_is_a_message_or_refused(content: Any) -> None:
    with pytest.raises(codec.ProtocolError):
        internal.decode(codec.framed(msgpack.packb(content)))


@given(st.sampled_from(ALL).flatmap(messages), st.data())
def test_messages_spliced_grown_and_repeated_are_messages_or_refused(
    message: Any, data: st.DataObject
) -> None:
    """Structure-aware damage: parts moved, lengths that lie, one message inside another."""
    is_public = type(message) in public.PUBLIC.values()
    frame = public.encode_public(message)[1] if is_public else internal.encode(message)
    cut = sorted(data.draw(st.tuples(*[st.integers(0, len(frame))] * 2)))
    part = frame[cut[0] : cut[1]]
    lie = data.draw(
        st.sampled_from(
            [
                b"\xdd\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
                b"\xdb\x7f\xff\xff\xff",
                b"\xc6\xff\xff\xff\xff",
                b"\x91",
            ]
        )
    )
    for damaged in (
        frame[: cut[1]] + part + frame[cut[1] :],
        frame[: cut[0]] + frame[cut[1] :],
        frame[: cut[0]] + lie + frame[cut[0] :],
        frame[: cut[0]] + frame + frame[cut[0] :],
        frame + frame,
        lie * 50 + frame,
    ):
        with contextlib.suppress(codec.ProtocolError):
            internal.decode(damaged)
        for topic in TOPICS:
            with contextlib.suppress(codec.ProtocolError):
                public.decode_public(topic, damaged)


TOPICS = (b"result/main", b"utterance/x", b"info/", b"health", b"health/\xff", b"", b"\x00" * 300)


@given(st.binary(max_size=300))
def test_any_topic_is_one_or_refused(topic: bytes) -> None:
    payload = public.encode_public(public.Info("main", "r", [], 1, 1, 1, "b", "s"))[1]
    with contextlib.suppress(codec.ProtocolError):
        message, _ = public.decode_public(topic, payload)
        assert topic.partition(b"/")[0] == b"info"
        assert isinstance(message, public.Info)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_memory_is_bounded_whatever_a_length_claims(cls: type[codec.Message]) -> None:
    import tracemalloc

    lies = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
    tracemalloc.start()
    try:
        for lie in lies:
            frame = b"\x81\xa1t" + lie + cls.__name__.encode()
            with pytest.raises(codec.ProtocolError):
                internal.decode(frame)
        assert tracemalloc.get_traced_memory()[1] < codec.MAX_FRAME
    finally:
        tracemalloc.stop()


HELLO: dict[Any, Any] = {"t": "Hello", "stage": "infer", "stream": "main"}


@examples(200)
@given(st.data())
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    frame = bytearray(internal.encode(internal.SentUpTo("main", "s", 1)))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(codec.ProtocolError, match="checksum"):
        internal.decode(bytes(frame))


def test_unknown_keys_are_ignored() -> None:
    assert internal.decode(codec.framed(msgpack.packb({**HELLO, "new": [1]}))) == internal.Hello(
        "infer", "main"
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({**HELLO, "t": "Goodbye"}, "Goodbye"),
        ({**HELLO, "t": 5}, "unknown"),
        ({"t": "Hello", "stage": "infer"}, "Hello without stream"),
        ({**HELLO, "stream": 7}, "Hello.stream"),
        ({**HELLO, "stream": "x" * (codec.MAX_TEXT + 1)}, "bounds"),
        ({**HELLO, "more": list(range(codec.MAX_ITEMS + 1))}, "bounds"),
        ({**HELLO, 3: 4}, "bounds"),
        ({**HELLO, b"more": 4}, "text keys"),
        ({**HELLO, "more": msgpack.ExtType(5, b"12")}, "bounds"),
        ({**HELLO, "more": dict.fromkeys(map(str, range(codec.MAX_ITEMS + 1)))}, "bounds"),
        (
            {"t": "SentUpTo", "stream": "", "session": "", "next": codec.MAX_INT + 1},
            "SentUpTo.next: .*2.*53",
        ),
        (
            {"t": "SentUpTo", "stream": "", "session": "", "next": 1.0},
            "SentUpTo.next: float where int",
        ),
        (
            {"t": "SentUpTo", "stream": "", "session": "", "next": True},
            "SentUpTo.next: bool where int",
        ),
    ],
)
def test_what_is_wrong_is_said(table: dict[Any, Any], words: str) -> None:
    with pytest.raises(codec.ProtocolError, match=words):
        internal.decode(codec.framed(msgpack.packb(table)))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_are_finite(number: float) -> None:
    sent = internal.SentUpTo("main", "s", 1)
    table = {"t": "Heartbeat", **dataclasses.asdict(heartbeat(rate_hz=number))}
    with pytest.raises(codec.ProtocolError, match="finite"):
        internal.decode(codec.framed(msgpack.packb(table)))
    assert internal.decode(internal.encode(sent)) == sent


@pytest.mark.parametrize("depth", [10, 2000, 200_000])
def test_depth_is_bounded(depth: int) -> None:
    nested = b"\x91" * depth + b"\xc0"
    with pytest.raises(codec.ProtocolError):
        internal.decode(codec.framed(nested))


@pytest.mark.parametrize("scalar", [np.float32(1), np.int64(1), np.bool_(True)])
def test_a_numpy_scalar_is_not_sent(scalar: Any) -> None:
    with pytest.raises(TypeError):
        internal.encode(heartbeat(rate_hz=scalar))


def test_a_numpy_float64_is_sent_as_the_float_it_is() -> None:
    sent = internal.encode(heartbeat(rate_hz=np.float64(0.1)))
    assert sent == internal.encode(heartbeat(rate_hz=0.1))


def heartbeat(rate_hz: float) -> internal.Heartbeat:
    return internal.Heartbeat("infer", 1, "ready", 0, rate_hz, None, 0, 0.0, 0.0, [], {})


def test_a_frame_too_long_is_not_looked_at() -> None:
    with pytest.raises(codec.ProtocolError, match="limit"):
        internal.decode(b"\x00" * (codec.MAX_FRAME + 1))


def test_keys_that_came_later_may_be_absent() -> None:
    info = public.Info("main", "r", [], 1, 1, 1, "b", "s", "fixed", -40.0)
    topic, payload = public.encode_public(info)
    table = msgpack.unpackb(payload)
    del table["gate"], table["gate_db"]
    older, _ = public.decode_public(topic, msgpack.packb(table))
    assert older == public.Info("main", "r", [], 1, 1, 1, "b", "s", None, None)
    del table["source"]
    with pytest.raises(codec.ProtocolError, match="source"):
        public.decode_public(topic, msgpack.packb(table))


def test_a_higher_version_is_refused_and_says_what_to_do() -> None:
    topic, payload = public.encode_public(public.Info("main", "r", [], 1, 1, 1, "b", "s"))
    newer = msgpack.packb({**msgpack.unpackb(payload), "v": codec.VERSION + 1})
    with pytest.raises(codec.ProtocolError, match="update this client"):
        public.decode_public(topic, newer)


@pytest.mark.parametrize(
    ("mark", "replay"), [(True, True), (False, False), (1, False), ("", False)]
)
def test_only_true_marks_a_replay(mark: object, replay: bool) -> None:
    info = public.Info("main", "r", [], 1, 1, 1, "b", "s")
    topic, payload = public.encode_public(info)
    marked = msgpack.packb({**msgpack.unpackb(payload), "replay": mark})
    assert public.decode_public(topic, marked) == (info, replay)


def test_whole_numbers_may_stand_for_floats() -> None:
    table = msgpack.unpackb(internal.encode(heartbeat(rate_hz=2.0))[codec.CRC_BYTES :])
    taken = internal.decode(codec.framed(msgpack.packb({**table, "rate_hz": 2})))
    assert isinstance(taken, internal.Heartbeat)
    assert type(taken.rate_hz) is float


@pytest.mark.parametrize("version", [None, "1", 0, True])
def test_a_message_without_a_version_is_refused(version: object) -> None:
    topic, payload = public.encode_public(public.Info("main", "r", [], 1, 1, 1, "b", "s"))
    table = msgpack.unpackb(payload)
    table["v"] = version
    with pytest.raises(codec.ProtocolError, match="version"):
        public.decode_public(topic, msgpack.packb(table))


def test_an_unknown_topic_is_refused() -> None:
    with pytest.raises(codec.ProtocolError, match="topic"):
        public.decode_public(b"weather/main", b"\x80")


@pytest.mark.parametrize("skipped", [0, 1, 120])
def test_the_next_window_follows_those_skipped(skipped: int) -> None:
    window = internal.Window(
        "main", "r", "s", 7, 0, 1, "gap", 0.0, 0.0, 0, skipped, 0.0, None, 0.0, [], None
    )
    assert window.next_seq == 7 + max(1, skipped)
