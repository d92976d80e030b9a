"""RTP and raw datagrams over a real socket."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator

import numpy as np
import pytest

from speech_emotion.capture.sources.network.connection import Chunk
from speech_emotion.capture.sources.network.datagrams import DatagramConnection, rtp_payload
from speech_emotion.capture.sources.network.listening import ListenAddress, parse
from tests.support.pipelines import PATIENCE_S
from tools.ports import free_port

FRAMES = np.arange(-160, 160, dtype=np.int16)


def rtp(number: int, stamp: int, source: int = 7, payload: bytes | None = None) -> bytes:
    head = struct.pack("!BBHII", 0x80, 97, number & 0xFFFF, stamp % 2**32, source)
    return head + (FRAMES.astype(">i2").tobytes() if payload is None else payload)


class Pair:
    """A connection, and a sender to it."""

    def __init__(self, scheme: str) -> None:
        self.port = free_port(socket.SOCK_DGRAM)
        self.connection = DatagramConnection(
            ListenAddress(scheme, "127.0.0.1", self.port, "", 16000, 1)
        )
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.now = time.monotonic()

    def send(self, *datagrams: bytes, sender: socket.socket | None = None) -> list[Chunk]:
        chunks, receiver = [], self.connection._socket
        assert receiver is not None
        for datagram in datagrams:
            (sender or self.sender).sendto(datagram, ("127.0.0.1", self.port))
            # A busy kernel delivers it later, in a thread of its own.
            assert select.select([receiver], [], [], PATIENCE_S)[0]
            chunks += self.connection.read(self.now, 10.0)
        return chunks

    def close(self) -> None:
        self.connection.close()
        self.sender.close()


@pytest.fixture
def rtp_pair() -> Iterator[Pair]:
    pair = Pair("rtp")
    yield pair
    pair.close()


def test_raw_samples_arrive(rtp_pair: Pair) -> None:
    rtp_pair.close()
    pair = Pair("udp")
    (chunk,) = pair.send(FRAMES.tobytes() + b"\x01")
    assert np.array_equal(chunk.samples[:, 0] * 32768, FRAMES)
    assert chunk.index is None
    assert pair.send(b"\x01") == []
    pair.close()


def test_rtp_has_stamps_that_wrap(rtp_pair: Pair) -> None:
    first = 2**32 - 320
    chunks = rtp_pair.send(*(rtp(n, first + 320 * n) for n in range(3)))
    assert [chunk.index for chunk in chunks] == [first, first + 320, first + 640]
    assert np.array_equal(chunks[0].samples[:, 0] * 32768, FRAMES)


def test_late_packets_are_dropped(rtp_pair: Pair) -> None:
    chunks = rtp_pair.send(rtp(0, 0), rtp(2, 640), rtp(1, 320), rtp(3, 960))
    assert [chunk.index for chunk in chunks] == [0, 640, 960]


def test_a_new_source_is_a_new_connection(rtp_pair: Pair) -> None:
    rtp_pair.send(rtp(0, 0))
    assert rtp_pair.send(rtp(0, 0, source=8)) == []
    assert rtp_pair.connection.end is not None
    assert "started again" in rtp_pair.connection.end.reason


def test_one_sender_at_a_time(rtp_pair: Pair) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert len(rtp_pair.send(rtp(0, 0))) == 1
        assert rtp_pair.send(rtp(1, 320), sender=other) == []
        rtp_pair.now += 3.0
        assert rtp_pair.send(rtp(1, 320), sender=other) == []
        assert rtp_pair.connection.end is not None
        assert "another device" in rtp_pair.connection.end.reason


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x80",
        b"\x40" + bytes(40),
        bytes([0xBF]) + bytes(11),
        bytes([0x90]) + bytes(12) + b"\xff" * 3,
    ],
)
def test_other_datagrams_hold_no_sound(datagram: bytes) -> None:
    assert rtp_payload(datagram) is None


def test_extension_sources_and_padding_are_no_sound() -> None:
    head = struct.pack("!BBHII", 0x80 | 0x20 | 0x10 | 2, 97, 1, 0, 7) + bytes(8)
    packet = head + struct.pack("!HH", 1, 1) + bytes(4) + b"SOUND!" + b"\x00\x02"
    assert rtp_payload(packet) == b"SOUND!"


def test_a_port_in_use_ends_the_connection_with_the_reason(rtp_pair: Pair) -> None:
    address = parse(f"listen:rtp://127.0.0.1:{rtp_pair.port}/16000/2")
    assert address.channels == 2
    other = DatagramConnection(address)
    assert other.end is not None
    assert "in use" in other.end.reason
    other.close()
