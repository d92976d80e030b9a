"""What subscribers can do to the hub: connections, descriptors, memory, storms."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import zmq

from speech_emotion.common.hub import publisher
from speech_emotion.common.hub.health import observe
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.wire import connections, internal, public
from speech_emotion.common.wire.sockets import connect
from tests.support.hub_messages import OPEN, submit
from tests.support.pipelines import (
    PATIENCE_MS,
    PATIENCE_S,
    ROOT,
    Received,
    Subscriber,
    fresh_endpoint,
    wait_until,
)
from tests.support.sockets import KeepingContext
from tools.ports import free_port

LIMIT = 8


def info(opened: internal.Open) -> public.Info:
    return public.Info(
        opened.stream, opened.run, ["a"], opened.window, opened.hop, opened.rate, "b", "file:x"
    )


class Rig:
    """A hub with a public TCP endpoint, an inner one, and a stage."""

    def __init__(self) -> None:
        self.port = free_port()
        self.results = f"tcp://127.0.0.1:{self.port}"
        self.inner, stages = fresh_endpoint(), fresh_endpoint()
        self.hub = Hub(self.results, stages, info=info, health=observe, inner=self.inner)
        self.hub.start()
        self.context = KeepingContext()
        self.stage = connect(self.context, stages, "hub")

    def submit(self, seq: int) -> None:
        """Submit a result and wait until the hub has accepted it."""
        self.stage.send(internal.encode(submit(seq) if seq >= 0 else OPEN))
        assert self.stage.poll(PATIENCE_MS)
        while self.stage.poll(0):
            self.stage.recv()

    def subscriber(self, kind: int = zmq.SUB) -> zmq.Socket[bytes]:
        """A socket that has received a message; an XSUB, which can send anything, comes once."""
        one: zmq.Socket[bytes] = self.context.socket(kind)
        if kind == zmq.XSUB:
            one.setsockopt(zmq.RECONNECT_IVL, -1)
            one.setsockopt(zmq.SNDHWM, 0)
        one.connect(self.results)
        if kind == zmq.SUB:
            one.subscribe(b"health")
        else:
            one.send(b"\x01health")
        assert one.poll(PATIENCE_MS)
        return one

    def raw(self, number: int) -> list[socket.socket]:
        """TCP connections that send nothing."""
        opened = []
        for _ in range(number):
            with contextlib.suppress(ConnectionError):
                opened.append(socket.create_connection(("127.0.0.1", self.port)))
        for one in opened:
            one.setblocking(False)
        return opened

    @property
    def cut(self) -> int:
        return self.hub.snapshot().counters["connections_cut"]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", LIMIT)
    one = Rig()
    yield one
    one.context.destroy(linger=0)
    one.hub.stop()
    assert one.hub.failure is None


def is_open(one: socket.socket) -> bool:
    """Whether the peer has not closed a connection; reads libzmq's greeting."""
    try:
        while data := one.recv(4096):
            assert data
        return False
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def alive(subscriber: zmq.Socket[bytes]) -> bool:
    """Whether a message of `health` comes."""
    while subscriber.poll(0):
        subscriber.recv_multipart()
    return bool(subscriber.poll(PATIENCE_MS))


def test_idle_connections_are_bounded_and_keep_no_client_out(rig: Rig) -> None:
    before = rig.subscriber()
    idle = rig.raw(5 * LIMIT)
    try:
        wait_until(lambda: sum(map(is_open, idle)) <= LIMIT, "connections to be closed")
        assert alive(before)
        after = rig.subscriber()
        assert alive(after)
        assert alive(before)
        assert rig.cut >= 4 * LIMIT
    finally:
        for one in idle:
            one.close()


def test_subscribers_beyond_the_limit_do_not_replace_others(rig: Rig) -> None:
    first = [rig.subscriber() for _ in range(LIMIT)]
    late: zmq.Socket[bytes] = rig.context.socket(zmq.SUB)
    late.subscribe(b"health")
    late.connect(rig.results)
    wait_until(lambda: rig.cut > 0, "a connection to be closed")
    assert all(alive(one) for one in first)
    first.pop().close()
    assert alive(late)  # it has tried again


@pytest.mark.parametrize(
    "request_",
    [b"user message", b"", b"\x01" + b"x" * (publisher.MAX_PREFIX + 1)],
    ids=["message", "empty", "long prefix"],
)
def test_what_is_no_subscription_ends_the_connection(rig: Rig, request_: bytes) -> None:
    client = rig.subscriber(zmq.XSUB)
    client.send(request_)
    wait_until(lambda: rig.cut == 1, "the connection to be closed")
    assert alive(rig.subscriber())


@pytest.mark.parametrize("length", [publisher.MAX_REQUEST + 1, 30_000, 4_000_000])
def test_a_long_request_ends_the_connection_before_it_is_kept(rig: Rig, length: int) -> None:
    client = rig.subscriber(zmq.XSUB)
    monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    client.send(b"x" * length)
    assert monitor.poll(PATIENCE_MS)
    monitor.close()
    assert alive(rig.subscriber())
    assert rig.cut == 0  # libzmq has not passed it on


def test_messages_of_subscribers_take_no_memory(rig: Rig) -> None:
    """A peer that ignores the end of the connection, and comes back at once."""
    before = resident_kib()
    frames = (b"\x00\xc8" + b"x" * 200) * 1000
    for _ in range(5):
        with rig.raw(1)[0] as client:
            client.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionError):
                client.sendall(GREETING + READY)
                assert client.recv(4096)  # the handshake is complete
                while True:
                    client.sendall(frames)
    wait_until(lambda: rig.cut >= 1, "the connection to be counted")
    assert alive(rig.subscriber())
    assert resident_kib() - before < 50_000


GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\x00") + b"\x00" * 32
READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
"""The handshake of ZMTP 3.0 (ZeroMQ RFC 23) without keys."""


def resident_kib() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_prefixes_of_one_connection_are_bounded(rig: Rig) -> None:
    client = rig.subscriber(zmq.XSUB)
    for number in range(publisher.MAX_PREFIXES):
        client.send(b"\x01result/%d" % number)
    wait_until(lambda: rig.cut == 1, "the connection to be closed")
    assert alive(rig.subscriber())


def test_prefixes_of_all_connections_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "MAX_ALL_PREFIXES", 100)
    modest = rig.subscriber()
    greedy = [rig.subscriber(zmq.XSUB) for _ in range(2)]
    for number in range(50):
        for name, one in enumerate(greedy):
            one.send(b"\x01result/%d-%d" % (name, number))
    wait_until(lambda: rig.cut >= 1, "the greediest connection to be closed")
    assert alive(modest)


def test_a_storm_of_subscriptions_reaches_neither_the_inner_subscribers_nor_others(
    rig: Rig,
) -> None:
    rig.submit(-1)
    inner, other = Subscriber(rig.inner), Subscriber(rig.results)
    for one in (inner, other):
        one.wait_for(lambda received: bool(received.fresh(public.Health)))
    client = rig.subscriber(zmq.XSUB)
    began = time.monotonic()
    seq = 0
    while time.monotonic() < began + 3.0:
        for _ in range(20):
            client.send(b"\x01")
            client.send(b"\x00")
        rig.submit(seq)
        seq += 1
    for one in (inner, other):
        one.wait_for(lambda received, n=seq: len(received.fresh(public.Result)) >= n)  # type: ignore
    received = inner.finish()
    assert [result.seq for result in received.fresh(public.Result)] == list(range(seq))
    replays = [type(message) for message, replay, _ in received.messages if replay]
    assert replays.count(public.Info) <= 1  # its own subscription
    replays = [type(message) for message, replay, _ in other.finish().messages if replay]
    elapsed = time.monotonic() - began  # also the time since the storm, and before it some
    most = publisher.MAX_REPLAYS + publisher.REPLAYS_PER_S * (elapsed + 2.0)
    assert replays.count(public.Info) <= most


def test_an_inner_subscriber_gets_what_was_published_before_it_in_order(rig: Rig) -> None:
    number = publisher.INNER_REPLAYS + 20
    for seq in range(-1, number):
        rig.submit(seq)
    accepted = "results_accepted"
    wait_until(lambda: rig.hub.snapshot().counters[accepted] == number, "all to be accepted")
    inner, other = Subscriber(rig.inner), Subscriber(rig.results)
    for one in (inner, other):  # what was kept: a message of `health` may come before it
        one.wait_for(lambda received: number - 1 in seqs_of(received))
    rig.submit(number)
    for one in (inner, other):
        one.wait_for(lambda received: bool(received.fresh(public.Result)))
    assert seqs_of(inner.finish()) == list(range(20, number + 1))
    assert seqs_of(other.finish()) == [number - 1, number]


def test_an_inner_subscriber_that_comes_meanwhile_gets_everything_in_order(rig: Rig) -> None:
    rig.submit(-1)
    subscribers = []
    for seq in range(500):
        rig.submit(seq)
        if seq % 50 == 25:
            subscribers.append(Subscriber(rig.inner))
    for one in subscribers:
        one.wait_for(lambda received: 499 in seqs_of(received))  # some come twice, replayed
        newest = -1
        for seq in seqs_of(one.finish()):
            assert seq <= newest + 1  # nothing is late: what is new comes in order
            newest = max(newest, seq)
        assert newest == 499


def seqs_of(received: Received) -> list[int]:
    return [m.seq for m, _, _ in received.messages if isinstance(m, public.Result)]


def test_a_connection_without_end_of_requests_is_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "MAX_REQUESTS", 50)
    client = rig.subscriber(zmq.XSUB)

    def closed() -> bool:
        storm(client)
        return rig.cut > 0

    wait_until(closed, "the connection to be closed")
    assert alive(rig.subscriber())


def storm(client: zmq.Socket[bytes]) -> None:
    for _ in range(50):
        with contextlib.suppress(zmq.Again):
            client.send(b"\x01health", zmq.DONTWAIT)
            client.send(b"\x00health", zmq.DONTWAIT)


HUB = """
import resource, subprocess, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from tests.system.test_public_bounds import Rig
rig = Rig()
rig.submit(-1)  # libzmq aborts if an ipc connection arrives while no descriptor is free
print(rig.port, flush=True)
sys.stdin.readline()
for _ in range(600):
    try:
        subprocess.run(["true"], check=True)
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit("no process could be started")
print(rig.hub.alive, flush=True)
rig.context.destroy(linger=0)
rig.hub.stop()
"""


def test_a_process_can_be_started_while_many_connections_idle() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HUB],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = int(process.stdout.readline())
        idle = []
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        for _ in range(min(1000, soft - 200)):
            idle.append(socket.socket())
            idle[-1].setblocking(False)
            idle[-1].connect_ex(("127.0.0.1", port))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True\n"
        for one in idle:
            one.close()
        assert process.wait(PATIENCE_S) == 0
