"""Events of the Wyoming protocol in pieces of any size."""

from __future__ import annotations

import pytest

from speech_emotion.capture.sources.network.wyoming import Event, EventReader, WyomingConnection
from tests.support.pipelines import wait_until

STREAM = (
    b'{"type": "ping"}\n'
    b'{"type": "audio-chunk", "version": "1.5", "data_length": 13, "payload_length": 4}\n'
    b'{"rate":8000}ABCD'
    b'{"type": "audio-stop", "data": {"timestamp": 5}}\n'
)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_events_in_pieces(size: int) -> None:
    reader = EventReader()
    events = [e for at in range(0, len(STREAM), size) for e in reader.feed(STREAM[at : at + size])]
    assert events == [
        Event("ping", {}, b""),
        Event("audio-chunk", {"rate": 8000}, b"ABCD"),
        Event("audio-stop", {"timestamp": 5}, b""),
    ]


@pytest.mark.parametrize(
    "content",
    [
        *(b"garbage\n", b"[1]\n", b'{"no": "type"}\n', b"x" * (1 << 21)),
        *(b'{"type": "a", "payload_length": 99999999999}\n', b'{"type": "a", "data_length": -1}\n'),
    ],
)
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        EventReader().feed(content)


def test_a_name_that_dns_cannot_look_up_ends_the_connection() -> None:
    connection = WyomingConnection("a" * 300, 1)
    wait_until(lambda: connection.end is not None, "the end of the attempt")
    assert connection.end is not None
    assert "no connection to the server" in connection.end.reason
    connection.close()
