"""The ring compared with its alternatives: multiprocessing.Queue and Pipe, ZeroMQ ipc.

The task of the pipeline: one process has a block of 20 ms fifty times a second, another needs
windows of 1 s. A write hands over one block while the other process waits for it. A read gets
one window: one copy out of the ring, or fifty blocks received and joined. The figure is the cost
in the measured process: the duration of the call plus the CPU time of its helper threads (the
feeder of Queue, the I/O thread of ZeroMQ). The cost in the other process is left out. This
favours the alternatives: the ring's reader costs its writer nothing.
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
"""Pause after each step, in which the other process completes its part."""

Step = Callable[[], object]
FORK = multiprocessing.get_context("fork")


def timed(step: Step, kind: str, before: Step = lambda: None, *, threads: bool = False) -> float:
    """µs that this process spends on a step.

    Args:
        before: called before each step; starts the other process.
        threads: the step has helper threads: count their CPU time, and release the interpreter.
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


def _receive_all(receive: Step) -> None:
    while True:
        receive()


def _send_all(requested: Any, send_block: Callable[[Any], object]) -> None:
    block = np.zeros(BLOCK, np.float32)
    while True:
        requested.acquire()
        for _ in range(BLOCKS):
            send_block(block)


@contextlib.contextmanager
def _child(target: Callable[..., None], *arguments: Any) -> Iterator[None]:
    process = FORK.Process(target=target, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _zmq_child(endpoint: str, requested: Any) -> None:
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(endpoint)
    if requested is None:
        _receive_all(socket.recv)
    _send_all(requested, socket.send)


def over_queue(kind: str) -> float:
    items: Any = FORK.Queue()
    block = np.zeros(BLOCK, np.float32)
    if kind == "write":
        with _child(_receive_all, items.get):
            time_us = timed(lambda: items.put(block), kind, threads=True)
    else:
        requested = FORK.Semaphore(0)
        with _child(_send_all, requested, items.put):
            join = lambda: np.concatenate([items.get() for _ in range(BLOCKS)])  # noqa: E731
            time_us = timed(join, kind, requested.release, threads=True)
    items.cancel_join_thread()
    items.close()
    return time_us


def over_pipe(kind: str) -> float:
    """Arrays, which the pipe pickles."""
    ours, theirs = FORK.Pipe()
    block = np.zeros(BLOCK, np.float32)
    if kind == "write":
        with _child(_receive_all, theirs.recv):
            time_us = timed(lambda: ours.send(block), kind)
    else:
        requested = FORK.Semaphore(0)
        with _child(_send_all, requested, theirs.send):
            join = lambda: np.concatenate([ours.recv() for _ in range(BLOCKS)])  # noqa: E731
            time_us = timed(join, kind, requested.release)
    ours.close()
    theirs.close()
    return time_us


def over_pipe_bytes(kind: str) -> float:
    """Bytes, the lowest cost of a pipe."""
    ours, theirs = FORK.Pipe()
    block = np.zeros(BLOCK, np.float32)
    if kind == "write":
        with _child(_receive_all, theirs.recv_bytes):
            time_us = timed(lambda: ours.send_bytes(block), kind)  # type: ignore[arg-type]
    else:
        requested = FORK.Semaphore(0)
        with _child(_send_all, requested, theirs.send_bytes):
            time_us = timed(lambda: _joined(ours.recv_bytes), kind, requested.release)
    ours.close()
    theirs.close()
    return time_us


def _joined(receive: Callable[[], bytes]) -> object:
    return np.concatenate([np.frombuffer(receive(), np.float32) for _ in range(BLOCKS)])


def over_zmq(kind: str, step: Callable[[zmq.Socket[bytes]], object] | None = None) -> float:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/blocks"
        requested = None if kind == "write" else FORK.Semaphore(0)
        with _child(_zmq_child, endpoint, requested):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            socket = context.socket(zmq.PAIR)
            socket.bind(endpoint)
            block = np.zeros(BLOCK, np.float32)
            if requested is not None:
                time_us = timed(lambda: _joined(socket.recv), kind, requested.release, threads=True)
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
    """The same bytes copied between a small array and one with the length of the ring."""
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
    """Measure all programs in turn, `rounds` times."""
    results: dict[str, Any] = {}
    for kind in COUNT:
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, run in PROGRAMS.items():
                times.setdefault(name, []).append(run(kind))
            if kind == "write":
                times.setdefault("ring and tick", []).append(over_ring(kind, ticks=True))
        ring = float(np.median(times["ring"]))
        results[kind] = {
            "us": {name: spread(values) for name, values in times.items()},
            "to_ring": {name: float(np.median(values)) / ring for name, values in times.items()},
        }
    second = {
        name: BLOCKS * results["write"]["us"][name]["median"]
        + results["read"]["us"][name]["median"]
        for name in PROGRAMS
    }
    results["second"] = {
        "us": {name: {"median": value} for name, value in second.items()},
        "to_ring": {name: value / second["ring"] for name, value in second.items()},
    }
    return results
