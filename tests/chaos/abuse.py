"""Damaged bundles, taken ports, small /dev/shm, slow readers, invalid messages; clock jumps."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import psutil
import zmq

from speech_emotion.common.wire import public
from tests.chaos.scene import (
    RATE,
    Row,
    Scale,
    Scene,
    folder,
    in_order,
    late_program,
    microphone,
    noise,
    shifted,
    speech,
)
from tests.support.pipelines import (
    BUNDLE,
    PATIENCE_S,
    ROOT,
    Subscriber,
    fresh_endpoint,
    leftovers,
    nothing_left_but,
    offline,
)
from tests.support.rubbish import rubbish

READERS = 50
SHIFTS = (2**31, 2**32)
BEFORE_S = 5.0
"""So far below the boundary a run begins."""


def refusals(_scale: Scale) -> list[Row]:
    """Starts that cannot be: one line each, and nothing left behind."""
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    demo = "--source=file:examples/demo.flac"
    small = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    with folder() as here, taken:
        bundle = here / "bundle"
        shutil.copytree(BUNDLE, bundle)
        model = bundle / "model.tflite"
        model.write_bytes(model.read_bytes()[:-100])
        tries = [
            (
                "/dev/shm too small",
                ["unshare", "-m", "sh", "-c", small, "sh"],
                ["--results", fresh_endpoint(), demo],
                ["/dev/shm"],
            ),
            ("port taken", [], ["--results", f"tcp://127.0.0.1:{port}", demo], [str(port)]),
            (
                "bundle damaged before the start",
                [],
                ["--results", fresh_endpoint(), "--bundle", str(bundle), demo],
                ["model.tflite"],
            ),
        ]
        return [_refused(*one) for one in tries]


def _refused(name: str, prefix: list[str], flags: list[str], words: list[str]) -> Row:
    before = leftovers()
    done = subprocess.run(
        [*prefix, sys.executable, "supervisor.py", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    lines = done.stderr.splitlines()
    nothing_left_but(before)
    good = done.returncode == 2 and len(lines) == 1 and all(w in lines[0] for w in words)
    return Row(
        name,
        "one clear line, nothing left behind",
        f"exit {done.returncode}, {len(lines)} line: {lines[0] if lines else ''}".replace(
            str(ROOT), ""
        ),
        good,
    )


def damaged_bundle(_scale: Scale) -> list[Row]:
    """The folder of a running pipeline's bundle is ruined, then every stage must start anew."""
    with folder() as here:
        bundle = here / "bundle"
        shutil.copytree(BUNDLE, bundle)
        path = speech(here, 20.0)
        with Scene(f"--source=file:{path}", f"--bundle={bundle}") as scene:
            scene.await_results(2)
            for file in bundle.iterdir():
                file.write_bytes(b"rubbish")
            for stage in ("infer", "features"):
                scene.running.stages()[stage].kill()
            equal = scene.end().stream() == offline(path)
    return [
        Row(
            "bundle damaged while running, features and infer killed",
            "the pipeline keeps its good bundle",
            f"{'same' if equal else 'OTHER'} messages",
            equal,
        )
    ]


def slow_subscriber(scale: Scale) -> list[Row]:
    """One subscriber that never reads, and fifty that do, at full speed."""
    hours = 0.1 if scale.kills < 20 else 1.0
    with folder() as here:
        path = speech(here, 3600.0 * hours)
        with Scene(f"--source=file:{path}", "--speed=max") as scene:
            context: zmq.Context[Any] = zmq.Context()
            unread = context.socket(zmq.SUB)
            unread.setsockopt(zmq.RCVHWM, 1)
            unread.setsockopt(zmq.SUBSCRIBE, b"")
            unread.connect(scene.running.endpoint)
            readers = _Readers(context, scene.running.endpoint)
            supervisor = psutil.Process(scene.running.process.pid)
            scene.await_results(100)
            early, peak = supervisor.memory_info().rss, 0
            while scene.running.process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, supervisor.memory_info().rss)
                time.sleep(0.2)
            received = scene.end()
            complete = readers.finish(received.fresh(public.Result)[-1].seq)
            context.destroy(linger=0)
        results = received.fresh(public.Result)
    grown = (peak - early) / 2**20
    return [
        Row(
            f"1 subscriber that never reads beside {READERS} that do, {len(results)} results",
            "others unaffected, memory bounded",
            f"{complete} of {READERS} got every result they were there for; "
            f"supervisor {grown:+.1f} MiB at its peak",
            complete == READERS and in_order(results) and grown < 32.0,
        )
    ]


def unread_stderr(_scale: Scale) -> list[Row]:
    """A log that is not read: the pipe is full after fifty lines."""
    with folder() as here:
        path = speech(here, 900.0)
        with Scene(f"--source=file:{path}", "--speed=max") as scene:
            assert scene.running.process.stderr is not None
            fcntl.fcntl(scene.running.process.stderr.fileno(), fcntl.F_SETPIPE_SZ, 4096)
            scene.await_results(20)
            since = time.monotonic()
            scene.running.stages()["infer"].kill()
            back, _ = scene.await_health(
                lambda h: any(s.restarts and s.state == "ready" for s in h.stages),
                "infer to be back",
                since,
            )
            code = scene.running.process.wait(PATIENCE_S)
            received = scene.end()
        equal = received.stream() == offline(path)
    return [
        Row(
            "stderr that is not read, infer killed",
            "results go on, infer is started again",
            f"exit {code}, {'same' if equal else 'OTHER'} messages, infer back after {back:.2f} s",
            code == 0 and equal,
        )
    ]


class _Readers:
    """Fifty subscribers in one thread that look for jumps in `seq`."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ended = False
        self._sockets = []
        for _ in range(READERS):
            one = context.socket(zmq.SUB)
            one.setsockopt(zmq.RCVHWM, 0)  # they do read, if not as fast as this goes
            one.setsockopt(zmq.SUBSCRIBE, b"result/")
            one.connect(endpoint)
            self._sockets.append(one)
        self._next: dict[Any, int | None] = dict.fromkeys(self._sockets)
        self._whole = dict.fromkeys(self._sockets, True)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        for one in self._sockets:
            poller.register(one, zmq.POLLIN)
        while not self._ended:
            for one, _ in poller.poll(200):
                with contextlib.suppress(zmq.Again):
                    while True:
                        result = msgpack.unpackb(one.recv_multipart(zmq.DONTWAIT)[1])
                        if not result.get("replay"):
                            expected = self._next[one]
                            self._whole[one] &= expected in (None, result["seq"])
                            self._next[one] = result["seq"] + 1

    def finish(self, last: int) -> int:
        """How many got everything from their first result up to the last one."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and any(n != last + 1 for n in self._next.values()):
            time.sleep(0.05)
        self._ended = True
        self._thread.join()
        return sum(self._whole[one] and self._next[one] == last + 1 for one in self._sockets)


def fuzz(scale: Scale) -> list[Row]:
    """Random bytes, random maps and real messages with a few bytes changed, at every socket."""
    rng = random.Random(4)
    with folder() as here:
        path = speech(here, 50.0)
        with Scene(f"--source=file:{path}", "--speed=realtime") as scene:
            scene.await_results()
            home = next((Path(os.environ["XDG_RUNTIME_DIR"]) / "sep").glob("*.*"))
            run = scene.results()[0].run
            sent, sockets = {}, []
            context: zmq.Context[Any] = zmq.Context()
            for name, kind, endpoint in (
                ("hub", zmq.DEALER, f"ipc://{home}/hub"),
                ("features", zmq.DEALER, f"ipc://{home}/features"),
                ("results", zmq.XSUB, scene.running.endpoint),
            ):
                one = context.socket(kind)
                sockets.append(one)
                one.connect(endpoint)
                sent[name] = 0
                for frame in rubbish(rng, run, scale.messages // 3):
                    one.send(frame)
                    sent[name] += 1
            scene.await_health(lambda h: h.streams[0].state == "ended", "the end of the file")
            received = scene.end()
            # Not before: what a peer has sent and is not yet read goes when it disconnects.
            context.destroy(linger=0)
        equal = received.stream() == offline(path)
    health = received.fresh(public.Health)[-1]
    counted = {name: health.counters.get(f"{name}_malformed", 0) for name in ("hub", "features")}
    restarts = sum(stage.restarts for stage in health.stages)
    exact = all(counted[name] == sent[name] for name in counted)
    return [
        Row(
            f"{sum(sent.values())} random and mutated messages at hub, features and results",
            "counted, nothing else happens",
            f"refused {counted['hub']} of {sent['hub']} at hub and {counted['features']} of "
            f"{sent['features']} at features; {'same' if equal else 'OTHER'} messages, "
            f"{restarts} restarts",
            exact and equal and not restarts,
        )
    ]


def sample_index(_scale: Scale) -> list[Row]:
    """Runs whose first sample has a number just below 2^31, and 2^32."""
    rows = []
    for boundary in SHIFTS:
        start = boundary - round(BEFORE_S * RATE)
        start -= start % (RATE // 2)  # a multiple of the hop, so that the windows are the same
        with folder() as here:
            path = speech(here, 4 * BEFORE_S)
            raw = _pcm(path)
            endpoint = fresh_endpoint()
            subscriber = Subscriber(endpoint)
            done = subprocess.run(
                [
                    sys.executable,
                    *late_program(start),
                    f"--source=stdin:{RATE}",
                    "--speed=max",
                    "--results",
                    endpoint,
                ],
                cwd=ROOT,
                input=raw,
                capture_output=True,
                timeout=PATIENCE_S,
                env={**os.environ, "SEP_BUNDLE": str(BUNDLE)},
            )
            received = subscriber.finish()
            expected = offline(path)
        results = received.fresh(public.Result)
        hops = start // (RATE // 2)
        rest = shifted(received.stream(), hops)
        first = results[0] if results else None
        equal = rest == expected and first is not None and first.skipped == hops
        rows.append(
            Row(
                f"sample index started just below 2^{boundary.bit_length() - 1}",
                "nothing happens",
                f"exit {done.returncode}; one gap message for what never was, then "
                f"{'the same' if equal else 'OTHER'} messages as from 0, {len(rest)} of them",
                equal and done.returncode == 0 and in_order(results),
            )
        )
    return rows


def _pcm(path: Path) -> bytes:
    import soundfile

    samples, _ = soundfile.read(path, dtype="int16")
    return bytes(samples.tobytes())


def clock(_scale: Scale) -> list[Row]:
    """The wall clock jumps by an hour, forth and back, under a live pipeline."""
    with folder() as here, microphone() as mic:
        path, _ = noise(here, 60.0)
        mic.play(path)
        stamp, library = here / "offset", here / "stepped_clock.so"
        source = Path(__file__).with_name("stepped_clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
        stamp.write_text("0")
        fake = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(stamp)}
        with Scene("--source=mic", microphone=mic, env=fake) as scene:
            scene.await_results(4)
            for offset in ("3600", "-3600", "0"):
                stamp.write_text(offset)
                scene.await_results(len(scene.results()) + 6)
            health = scene.received.fresh(public.Health)
            received = scene.stop()
    results = received.fresh(public.Result)
    times = [r.time for r in results if r.time is not None]
    jumps = sorted(round(b - a) for a, b in itertools.pairwise(times))
    seen = (jumps[0], jumps[-1])
    quiet = max(
        b - a
        for a, b in itertools.pairwise(
            [c for x, r, c in received.messages if isinstance(x, public.Result) and not r]
        )
    )
    restarts = sum(stage.restarts for stage in health[-1].stages)
    bad = [h.state for h in health if h.state == "degraded"]
    lost = health[-1].streams[0].lost
    return [
        Row(
            "wall clock stepped by +1 h, -2 h, +1 h, live",
            "nothing happens (`time` follows the clock)",
            f"`time` stepped by {seen[1]} and {seen[0]} s; {len(results)} results, none missing, "
            f"longest wait {quiet:.2f} s; {lost} samples lost, {restarts} restarts, "
            f"{len(bad)} times degraded",
            in_order(results)
            and not lost
            and not restarts
            and not bad
            and quiet < 2.0
            and seen[1] > 3000
            and seen[0] < -3000,
        )
    ]
