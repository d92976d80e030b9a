"""Lab Streaming Layer and Open Sound Control, each with a real receiver."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from tests.support.history import make_utterance
from tests.support.live_page import INFO, live, sending
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until
from tests.support.publisher import Publisher, health, result

OFFSET_S = 0.005
"""Largest difference in seconds between a stamp and the time of the sound."""


@contextmanager
def example(name: str, *flags: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name), *flags],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def lsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """pylsl, which finds streams on this machine only, and not those of another test run."""
    config = tmp_path / "lsl.cfg"
    config.write_text(
        "[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n"
        f"SessionID = test-{os.getpid()}\n[log]\nlevel = -2\n"
    )
    monkeypatch.setenv("LSLAPICFG", str(config))
    return pytest.importorskip("pylsl")


def clock_offset(lsl: Any) -> float:
    """Unix time minus LSL's clock: the quickest of some readings, as one can be interrupted."""
    readings = []
    for _ in range(50):
        before, unix, after = lsl.local_clock(), time.time(), lsl.local_clock()
        readings.append((after - before, unix - (before + after) / 2.0))
    return float(min(readings)[1])


def inlet_of(lsl: Any, name: str) -> Any:
    found = lsl.resolve_byprop("name", name, timeout=PATIENCE_S)
    assert found, f"no LSL stream {name!r}"
    inlet = lsl.StreamInlet(found[0])
    inlet.open_stream(PATIENCE_S)
    return inlet


def test_stamps_of_a_real_pipeline_are_times_of_the_sound(
    supervise: Callable[..., Running], clip: Callable[..., Path], lsl: Any
) -> None:
    running = supervise(f"--source=file:{clip(12.0, repeat=10)}")
    with example("lsl_outlet.py", "--endpoint", running.endpoint) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "main: LSL streams are open\n"
        windows, utterances = inlet_of(lsl, "main windows"), inlet_of(lsl, "main utterances")
        labels = windows.info().get_channel_labels()
        assert labels[-2:] == ["confidence", "level"]
        sent = running.received
        rows = [windows.pull_sample(PATIENCE_S) for _ in range(8)]
        marker, marked_at = utterances.pull_sample(PATIENCE_S)
        unix = clock_offset(lsl)
        newest = max(marked_at, *(stamp for _, stamp in rows)) + unix + OFFSET_S
        running.subscriber.wait_for(
            lambda r: any(one.time > newest for one in r.fresh(public.Result))
        )
        for values, stamp in rows:
            one = min(sent.fresh(public.Result), key=lambda r: abs(r.time - stamp - unix))
            assert abs(one.time - stamp - unix) < OFFSET_S
            check_row(dict(zip(labels, values, strict=True)), one)
        spoken = min(sent.fresh(public.Utterance), key=lambda u: abs(u.time - marked_at - unix))
        assert abs(spoken.time - marked_at - unix) < OFFSET_S
        assert marker == [spoken.emotion]
        for inlet in (windows, utterances):
            inlet.close_stream()
    running.process.terminate()
    assert running.ended()[0] == 0


def check_row(row: dict[str, float], one: public.Result) -> None:
    """Compare a sample with the result it was made from; LSL sends float32."""
    assert row["level"] == pytest.approx(one.rms_db, abs=1e-3)
    if one.smoothed is None:
        assert all(math.isnan(value) for name, value in row.items() if name != "level")
        return
    assert row["confidence"] == pytest.approx(one.confidence, abs=1e-6)
    assert {name: row[name] for name in one.smoothed} == pytest.approx(one.smoothed, abs=1e-6)


def test_a_stamp_is_not_the_time_of_arrival(publisher: tuple[Publisher, str], lsl: Any) -> None:
    """Results that are late keep the time of their sound."""
    with example("lsl_outlet.py", "--endpoint", publisher[1]) as process:
        publisher[0].wait_for()
        publisher[0].send(health())
        publisher[0].send(INFO)
        assert process.stdout is not None
        assert process.stdout.readline() == "main: LSL streams are open\n"
        windows = inlet_of(lsl, "main windows")
        late = time.time() - 3.0
        publisher[0].send(dataclasses.replace(live(1), time=late))
        values, stamp = windows.pull_sample(PATIENCE_S)
        assert abs(stamp + clock_offset(lsl) - late) < OFFSET_S
        assert values == pytest.approx([0.75, 0.25, 0.75, -20.0])
        windows.close_stream()


class Received:
    """A real OSC server on the loopback interface."""

    def __init__(self) -> None:
        from pythonosc.dispatcher import Dispatcher
        from pythonosc.osc_server import BlockingOSCUDPServer

        self.messages: list[tuple[str, list[Any]]] = []
        dispatcher = Dispatcher()
        dispatcher.set_default_handler(lambda path, *args: self.messages.append((path, [*args])))
        self.server: socketserver.BaseServer = BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def of(self, path: str) -> list[list[Any]]:
        return [values for known, values in list(self.messages) if known == path]

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Received]:
    pytest.importorskip("pythonosc")
    one = Received()
    yield one
    one.close()


def test_an_osc_server_gets_labels_and_levels(
    publisher: tuple[Publisher, str], receiver: Received
) -> None:
    flags = ["--endpoint", publisher[1], "--to", f"127.0.0.1:{receiver.port}"]
    with example("osc_send.py", *flags):
        publisher[0].wait_for()
        for message in (health(), live(1), result(2), make_utterance(3)):
            publisher[0].send(message)
        wait_until(lambda: bool(receiver.of("/utterance/main")), "the utterance")
        assert receiver.of("/emotion/main") == [["angry", pytest.approx(0.75)]]
        assert receiver.of("/level/main") == [[pytest.approx(-20.0)], [pytest.approx(-100.0)]]
        assert receiver.of("/utterance/main") == [["sad", pytest.approx(0.75), 1.5]]
        seqs = itertools.count(4)

        def publish() -> None:
            publisher[0].send(health())
            publisher[0].send(live(next(seqs)))

        with sending(publish):
            wait_until(lambda: receiver.of("/fresh/main")[-1:] == [[1]], "fresh results")
        wait_until(lambda: receiver.of("/fresh/main")[-1:] == [[0]], "stale results")


@pytest.mark.parametrize("address", ["9000", "127.0.0.1:", "127.0.0.1:osc"])
def test_an_osc_address_that_is_none_is_one_line(address: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "osc_send.py"), "--to", address],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"osc_send: --to {address!r} must be HOST:PORT")
