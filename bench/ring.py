"""The ring beside what one would take otherwise: multiprocessing.Queue and Pipe, ZeroMQ ipc.

What a pipeline does: one process has a block of 20 ms every now and then, another one needs a
window of 1 s. Writing is one block handed over while the other side waits for it, as it does
fifty times a second. Reading is one window had: one copy out of the ring, or fifty blocks
received and joined. The figure is what the measured process spends: the time of the call and
the CPU time of its helper threads (Queue's feeder, ZeroMQ's). What the other side spends is
left out, which favours the rivals: the ring's reader costs its writer nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zmq

from bench.harness import spread
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import create_ring
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.wire import internal
from speech_emotion.common.wire.sockets import send

BLOCK, WINDOW, RATE = 320, 16000, 16000
BLOCKS = WINDOW // BLOCK
CAPACITY = 30 * RATE
ROUNDS = 5
COUNT = {"write": 1000, "read": 40}
PAUSE_S = {"write": 100e-6, "read": 3e-3}
"""Behind each step, so that the other side has done its part."""

Step = Callable[[], object]
FORK = multiprocessing.get_context("fork")


def timed(step: Step, kind: str, before: Step = lambda: None, *, threads: bool = False) -> float:
    """µs that this process spends on a step.

    Args:
        before: each step, the other side is told to begin.
        threads: there are helpers: their CPU time counts, and they need the interpreter.
    """
    calls = []
    for turn in range(-20, COUNT[kind]):
        if turn == 0:
            helpers = time.process_time_ns() - time.thread_time_ns()
        before()
        until = time.perf_counter() + PAUSE_S[kind]
        while time.perf_counter() < until:
            if threads:
                time.sleep(0)
        began = time.perf_counter_ns()
        step()
        calls.append(time.perf_counter_ns() - began)
    time.sleep(0.01)
    helpers = time.process_time_ns() - time.thread_time_ns() - helpers
    return (float(np.median(calls[20:])) + threads * helpers / COUNT[kind]) / 1e3


def _drain(receive: Step) -> None:
    while True:
        receive()


def _give(asked: Any, give: Callable[[Any], object]) -> None:
    block = np.zeros(BLOCK, np.float32)
    while True:
        asked.acquire()
        for _ in range(BLOCKS):
            give(block)


@contextlib.contextmanager
def _child(target: Callable[..., None], *arguments: Any) -> Iterator[None]:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _zmq_child(endpoint: str, asked: Any) -> None:
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(endpoint)
    if asked is None:
        _drain(socket.recv)
    _give(asked, socket.send)


def over_queue(kind: str) -> float:
    items: Any = FORK.Queue()
    block = np.zeros(BLOCK, np.float32)
    if kind == "write":
        with _child(_drain, items.get):
            time_us = timed(lambda: items.put(block), kind, threads=True)
    else:
        asked = FORK.Semaphore(0)
        with _child(_give, asked, items.put):
            join = lambda: np.concatenate([items.get() for _ in range(BLOCKS)])  # noqa: E731
            time_us = timed(join, kind, asked.release, threads=True)
    items.cancel_join_thread()
    items.close()
    return time_us


def over_pipe(kind: str) -> float:
    """As arrays, pickled, as one uses it first."""
    ours, theirs = FORK.Pipe()
    block = np.zeros(BLOCK, np.float32)
    if kind == "write":
        with _child(_drain, theirs.recv):
            time_us = timed(lambda: ours.send(block), kind)
    else:
        asked = FORK.Semaphore(0)
        with _child(_give, asked, theirs.send):
            join = lambda: np.concatenate([ours.recv() for _ in range(BLOCKS)])  # noqa: E731
            time_us = timed(join, kind, asked.release)
    ours.close()
    theirs.close()
    return time_us


def over_pipe_bytes(kind: str) -> float:
    """As bytes, the least that a pipe can cost."""
    ours, theirs = FORK.Pipe()
    block = np.zeros(BLOCK, np.float32)
    if kind == "write":
        with _child(_drain, theirs.recv_bytes):
            time_us = timed(lambda: ours.send_bytes(block), kind)  # type: ignore[arg-type]
    else:
        asked = FORK.Semaphore(0)
        with _child(_give, asked, theirs.send_bytes):
            time_us = timed(lambda: _joined(ours.recv_bytes), kind, asked.release)
    ours.close()
    theirs.close()
    return time_us


def _joined(receive: Callable[[], bytes]) -> object:
    return np.concatenate([np.frombuffer(receive(), np.float32) for _ in range(BLOCKS)])


def over_zmq(kind: str, step: Callable[[zmq.Socket[bytes]], object] | None = None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/blocks"
        asked = None if kind == "write" else FORK.Semaphore(0)
        with _child(_zmq_child, endpoint, asked):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            socket = context.socket(zmq.PAIR)
            socket.bind(endpoint)
            block = np.zeros(BLOCK, np.float32)
            if asked is not None:
                time_us = timed(lambda: _joined(socket.recv), kind, asked.release, threads=True)
            elif step is not None:
                time_us = timed(lambda: step(socket), kind, threads=True)
            else:
                time_us = timed(lambda: socket.send(block.data), kind, threads=True)
            context.destroy(linger=0)
    return time_us


def over_ring(kind: str, *, ticks: bool = False) -> float:
    with (
        create_ring("bench", sample_rate=RATE, capacity=CAPACITY, run=secrets.token_hex(8)) as made,
        RingWriter.attach(made.name) as writer,
        RingReader.attach(made.name) as reader,
    ):
        block = np.zeros(BLOCK, np.float32)
        out = np.empty(WINDOW, np.float32)
        for _ in range(CAPACITY // BLOCK + 7):
            writer.write(block)
        if kind == "read":
            return timed(lambda: reader.read(writer.index - WINDOW, out, writer.index), kind)
        if not ticks:
            return timed(lambda: writer.write(block), kind)

        def write_and_tick(socket: zmq.Socket[bytes]) -> None:
            writer.write(block)
            tick = internal.Tick(
                "main", made.run, made.name, 1, writer.index, False, 0, 0.0, 0.0, []
            )
            send(socket, tick)

        return over_zmq(kind, write_and_tick)


def memcpy(kind: str) -> float:
    """The same bytes copied between an array and another one as long as the ring."""
    size = BLOCK if kind == "write" else WINDOW
    large = np.zeros(CAPACITY, np.float32)
    small = np.zeros(size, np.float32)
    spans = [large[at : at + size] for at in range(0, CAPACITY - size, size)]
    turn = [0]

    def step() -> None:
        turn[0] = (turn[0] + 1) % len(spans)
        if kind == "write":
            spans[turn[0]][:] = small
        else:
            small[:] = spans[turn[0]]

    return timed(step, kind)


PROGRAMS: dict[str, Callable[[str], float]] = {
    "ring": over_ring,
    "memcpy": memcpy,
    "queue": over_queue,
    "pipe": over_pipe,
    "pipe, bytes": over_pipe_bytes,
    "zmq": over_zmq,
}


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """All by turns, `rounds` times."""
    found: dict[str, Any] = {}
    for kind in COUNT:
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, run in PROGRAMS.items():
                times.setdefault(name, []).append(run(kind))
            if kind == "write":
                times.setdefault("ring and tick", []).append(over_ring(kind, ticks=True))
        ring = float(np.median(times["ring"]))
        found[kind] = {
            "us": {name: spread(values) for name, values in times.items()},
            "to_ring": {name: float(np.median(values)) / ring for name, values in times.items()},
        }
    second = {
        name: BLOCKS * found["write"]["us"][name]["median"] + found["read"]["us"][name]["median"]
        for name in PROGRAMS
    }
    found["second"] = {
        "us": {name: {"median": value} for name, value in second.items()},
        "to_ring": {name: value / second["ring"] for name, value in second.items()},
    }
    return found
