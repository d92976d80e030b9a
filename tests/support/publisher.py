"""A publisher with the public messages of a pipeline that is not there."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq

from speech_emotion.common.client.results import (
    Results,
)
from speech_emotion.common.wire import public
from tests.support.pipelines import fresh_endpoint, wait_until

HOP, WINDOW, RATE = 8000, 16000, 16000


def result(seq: int, *, stream: str = "main", run: str = "a", skipped: int = 0) -> public.Result:
    return public.Result(
        stream=stream,
        run=run,
        seq=seq,
        start=seq * HOP,
        end=seq * HOP + WINDOW,
        rate=RATE,
        time=None,
        state="gap" if skipped else "silence",
        emotion=None,
        confidence=None,
        probabilities=None,
        smoothed=None,
        reason=None,
        rms_db=-100.0,
        lost=0,
        skipped=skipped,
        timing_ms=None,
        bundle="none@00000000",
    )


def health(stream: str = "main", *, stage: str = "ready", source: str = "live") -> public.Health:
    return public.Health(
        time=0.0,
        state="ok",
        stages=[public.StageHealth("infer", 1, stage, 0, 0.1, 2.0, 9.0, 0, 1.0, 50.0, "broke")],
        streams=[public.StreamHealth(stream, "a", source, None, 0.0, None, 0, None, 0.0, 0, 0)],
        counters={},
    )


class Publisher:
    """A real socket under the test's hand: what it sends is what a publisher could send."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(endpoint)
        self._lock = threading.Lock()
        self._health: public.Health | None = None
        self._silent = threading.Event()

    def wait_for(self, client: Results | None = None) -> None:
        """Until a client has asked for all its topics: what is sent from then on arrives.

        A client that connects again does so from its own calls only, so it is kept reading.
        """
        asked = 0

        def turn() -> bool:
            nonlocal asked
            with self._lock:
                while self._socket.poll(0):
                    asked += self._socket.recv()[:1] == b"\x01"
            return asked >= len(public.PUBLIC) or (client is not None and bool(client.receive(0.0)))

        wait_until(turn, "the client to subscribe")

    @contextlib.contextmanager
    def repeating_health(self, interval_s: float = 0.5) -> Iterator[None]:
        """Send the newest `health` at an interval; without it a client reports `gone`."""
        self._silent.clear()

        def run() -> None:
            while not self._silent.wait(interval_s):
                with self._lock:  # else it could come after a newer one, and replace it
                    if self._health is not None:
                        self._send(dataclasses.replace(self._health, time=time.time()))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self.fall_silent()
            thread.join()

    def fall_silent(self) -> None:
        """Stop repeating `health`, as a pipeline that stopped does."""
        self._silent.set()

    def send(self, message: Any, **changes: Any) -> None:
        with self._lock:
            if isinstance(message, public.Health):
                self._health = message
            self._send(message, **changes)

    def _send(self, message: Any, **changes: Any) -> None:
        topic, payload = public.encode_public(message)
        table = {**msgpack.unpackb(payload), **changes}
        self._socket.send_multipart([topic, msgpack.packb(table)])

    def send_raw(self, *parts: bytes) -> None:
        with self._lock:
            self._socket.send_multipart(list(parts))

    def close(self) -> None:
        self._context.destroy(linger=0)


@contextlib.contextmanager
def publishing() -> Iterator[tuple[Publisher, str]]:
    """A publisher and its endpoint."""
    endpoint = fresh_endpoint()
    one = Publisher(endpoint)
    try:
        yield one, endpoint
    finally:  # a socket that is left open fails another test
        one.close()
        Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
