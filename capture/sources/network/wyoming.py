"""The microphone of a Wyoming satellite, or of any Wyoming server that sends audio.

An event is a line of JSON, then optional data (JSON) and an optional payload, whose lengths the
line gives. This side connects, asks a satellite to run, and takes the audio chunks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
from typing import Any

from speech_emotion.capture.sources.network.connection import Chunk, End
from speech_emotion.capture.sources.network.datagrams import decode
from speech_emotion.common.connection_error import phrase

CONNECT_S = 2.5
LARGEST = 1 << 20
"""Longest line, data or payload in bytes."""
READ_BYTES = 1 << 16
RATES = range(8000, 192_001)
CHANNELS = range(1, 9)
WIDTH = 2


@dataclasses.dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        kind: its type, such as `audio-chunk`.
    """

    kind: str
    data: dict[str, Any]
    payload: bytes


class EventReader:
    """Parses a stream of events; feed it bytes of any size."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, content: bytes) -> list[Event]:
        """The events that are complete.

        Raises:
            ValueError: the bytes are no Wyoming events.
        """
        self._rest += content
        events = []
        while (event := self._next()) is not None:
            events.append(event)
        return events

    def _next(self) -> Event | None:
        line, found, rest = self._rest.partition(b"\n")
        if not found:
            if len(line) > LARGEST:
                raise ValueError("a line is too long")
            return None
        head = json.loads(line)
        if not isinstance(head, dict) or not isinstance(head.get("type"), str):
            raise ValueError("an event has no type")
        data_length, payload_length = (
            int(head.get(key) or 0) for key in ("data_length", "payload_length")
        )
        if not (0 <= data_length <= LARGEST and 0 <= payload_length <= LARGEST):
            raise ValueError("an event is too long")
        if len(rest) < data_length + payload_length:
            return None
        data = dict(head.get("data") or {})
        if data_length:
            data.update(json.loads(rest[:data_length]))
        end = data_length + payload_length
        self._rest = rest[end:]
        return Event(head["type"], data, rest[data_length:end])


def event_bytes(kind: str) -> bytes:
    """An event without data."""
    return json.dumps({"type": kind}).encode() + b"\n"


class WyomingConnection:
    """A TCP connection to a Wyoming server. A thread of its own resolves the name and connects."""

    def __init__(self, host: str, port: int) -> None:
        self.rate: int | None = None
        self.end: End | None = None
        self.doing = "connecting"
        self._socket: socket.socket | None = None
        self._closed = False
        self._events = EventReader()
        self._channels = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._connect, args=(host, port), daemon=True).start()

    def read(self, now: float, seconds: float) -> list[Chunk]:
        """The chunks that have arrived, about `seconds` of sound at most."""
        chunks: list[Chunk] = []
        room = seconds * (self.rate or 1)
        while room > 0 and self._socket is not None and self.end is None:
            try:
                content = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self.end = End(phrase(error))
                break
            if not content:
                self.end = End("the server closed the connection")
                break
            try:
                for event in self._events.feed(content):
                    chunk = self._take(event, now)
                    if chunk is not None:
                        chunks.append(chunk)
                        room -= len(chunk.samples)
            except (ValueError, TypeError, KeyError, UnicodeDecodeError):
                self.end = End("what it sends is no Wyoming protocol")
        return chunks

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _connect(self, host: str, port: int) -> None:
        try:
            opened = socket.create_connection((host, port), CONNECT_S)
            opened.sendall(event_bytes("run-satellite"))  # a plain microphone ignores it
            opened.setblocking(False)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that DNS can look up
            self.end = End(f"no connection to the server: {phrase(error)}")
        else:
            with self._lock:
                if self._closed:
                    opened.close()
                    return
                self.doing = "connected"
                self._socket = opened

    def _take(self, event: Event, now: float) -> Chunk | None:
        if event.kind == "ping" and self._socket is not None:
            with contextlib.suppress(BlockingIOError):
                self._socket.send(event_bytes("pong"))
        if event.kind != "audio-chunk" or not event.payload:
            return None
        rate, width, channels = (int(event.data[key]) for key in ("rate", "width", "channels"))
        if rate not in RATES or width != WIDTH or channels not in CHANNELS:
            raise ValueError("an audio format other than 16-bit samples")
        if self.rate is None:
            self.rate, self._channels = rate, channels
        elif (rate, channels) != (self.rate, self._channels):
            self.end = End("the server changed the audio format")
            return None
        samples = decode(event.payload, channels, "<i2")
        return None if samples is None else Chunk(samples, now, None)
