"""Other programs at the endpoints: a thousand idle connections; subscribers without measure."""

from __future__ import annotations

import contextlib
import http.client
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from speech_emotion.common.client.results import Results
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.wire import public
from speech_emotion.supervision.control_socket import running
from tests.chaos.late import PageReader, kill_and_wait, samples_from
from tests.chaos.scene import Row, Scale, Scene, folder, in_order, speech
from tests.chaos.stalls import losses, restarts
from tests.support.key_files import KeyFolder
from tests.support.pipelines import BUNDLE, ROOT, Subscriber, offline, wait_until
from tests.support.swaps import OTHER, ask_swap, messages_of
from tools.ports import free_port

CONNECTIONS = 1000
DESCRIPTORS = 1024
"""Hard limit of the supervisor: the connections would take all of them."""
FEW = (
    "-c",
    "import os, resource, sys; sys.path.insert(0, os.getcwd()); "
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS})); "
    "import speech_emotion.supervisor; sys.exit(speech_emotion.supervisor.main())",
)
GREEDY = {"storm": 4, "prefixes": 3, "messages": 2, "sleep": 3}
"""Kind of greedy client → number of processes."""
MEMORY_MIB = 64.0
ANSWER_S = 20.0


def descriptors(_scale: Scale) -> list[Row]:
    """1,000 idle connections to each port, then a restart of a stage and a swap."""
    rows = []
    with folder() as here:
        curve, metrics = KeyFolder(here), free_port()
        cases: list[tuple[str, int, dict[str, str], CurveClientKeys | None]] = [
            ("results port", int(curve.endpoint.rpartition(":")[2]), {}, None),
            (
                "results port with CURVE, without a key",
                int(curve.endpoint.rpartition(":")[2]),
                curve.env,
                curve.client_keys("friend"),
            ),
            ("metrics port", metrics, {}, None),
        ]
        path = speech(here, 120.0)
        for name, port, env, keys in cases:
            env = {**env, "SEP_METRICS__PORT": str(metrics), "SEP_RESULTS": curve.endpoint}
            rows.append(_descriptors(name, port, path, env, curve.endpoint, keys))
    return rows


def _descriptors(
    name: str,
    port: int,
    path: Path,
    env: dict[str, str],
    endpoint: str,
    keys: CurveClientKeys | None,
) -> Row:
    with (
        Scene(f"--source=file:{path}", f"--results={endpoint}", env=env, program=FEW) as scene,
        contextlib.ExitStack() as stack,
    ):
        pid = scene.running.process.pid
        wait_until(lambda: pid in running(), "the control socket")
        home = running()[pid].parent
        inside = Subscriber(f"ipc://{home}/results")
        stack.callback(lambda: inside.finish() if inside.alive else None)
        wait_until(lambda: len(inside.received.fresh(public.Result)) >= 2, "results")
        stack.enter_context(idle(port))
        time.sleep(1.0)
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        took = _killed(scene, inside, "infer")
        swapped = ask_swap(home / "control", OTHER)
        client = _gets_results(endpoint, keys)
        measured = _metrics(int(env["SEP_METRICS__PORT"]))
        scene.running.process.terminate()
        code, stderr, _ = scene.running.ended()
        received = inside.finish()
    good = code == 0 and "Traceback" not in stderr and in_order(received.fresh(public.Result))
    return Row(
        f"{CONNECTIONS} idle connections to the {name}, then infer killed and a swap",
        f"with {DESCRIPTORS} descriptors: restarted, swapped, a new client served, metrics served",
        f"{used} descriptors used; infer back after {took:.2f} s; swap: "
        f"{'done' if swapped.code == 0 else swapped.text}; new client "
        f"{'served' if client else 'NOT SERVED'}, metrics {'served' if measured else 'NOT SERVED'}"
        f"; exit {code}, {'no message' if good else 'MESSAGES'} missing",
        good and swapped.code == 0 and client and measured and used < DESCRIPTORS,
    )


@contextlib.contextmanager
def idle(port: int) -> Iterator[None]:
    """Connections that send nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CONNECTIONS), hard))
    crowd = []
    try:
        for _ in range(CONNECTIONS):
            with contextlib.suppress(OSError):
                crowd.append(socket.create_connection(("127.0.0.1", port), timeout=2.0))
        yield
    finally:
        for one in crowd:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _killed(scene: Scene, inside: Subscriber, stage: str) -> float:
    """Kill a stage; seconds until `health` says that another process of it is ready."""
    process, since = scene.running.stages()[stage], time.monotonic()
    process.kill()

    def again() -> bool:
        newest = inside.received.fresh(public.Health)[-1]
        row = next(row for row in newest.stages if row.name == stage)
        return row.state == "ready" and row.pid not in (0, process.pid)

    wait_until(again, f"{stage} to be ready again")
    return time.monotonic() - since


def _gets_results(endpoint: str, keys: CurveClientKeys | None) -> bool:
    """Whether a client that connects now gets results."""
    with Results(endpoint, client_keys=keys) as results:
        deadline = time.monotonic() + ANSWER_S
        while (left := deadline - time.monotonic()) > 0.0:
            event = results.receive(left)
            if event is not None and isinstance(event.message, public.Result):
                return True
    return False


def _metrics(port: int) -> bool:
    """Whether the metrics are served within a while: an idle connection is closed after 10 s."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
            connection.request("GET", "/metrics")
            if b"sep_state" in connection.getresponse().read():
                return True
        time.sleep(0.5)
    return False


def greedy(scale: Scale) -> list[Row]:
    """Subscribers that take all they can, beside the recorder, the history and an open page."""
    port = free_port()
    with folder() as here:
        path = speech(here, scale.crowd_s + 20.0)
        flags = [f"--source=file:{path}", f"--record={here / 'tape'}"]
        flags += [f"--history={here / 'history.sqlite'}", f"--dashboard=127.0.0.1:{port}"]
        with Scene(*flags) as scene:
            scene.await_results(2)
            page = PageReader(port)
            supervisor = psutil.Process(scene.running.process.pid)
            wait_until(lambda: page.newest >= 0, "the page")
            early, peak, first = supervisor.memory_info().rss, 0, page.newest
            crowd = [
                subprocess.Popen(
                    [
                        *(sys.executable, "-m", "tests.chaos.greedy"),
                        *(scene.running.endpoint, kind, str(scale.crowd_s)),
                    ],
                    cwd=ROOT,
                )
                for kind, number in GREEDY.items()
                for _ in range(number)
            ]
            try:
                while any(one.poll() is None for one in crowd):
                    peak = max(peak, supervisor.memory_info().rss)
                    time.sleep(0.2)
            finally:
                for one in crowd:
                    one.kill()
                    one.wait()
            took = kill_and_wait(scene, "features")
            received = scene.end()
            page.stop()
        expected = offline(path)
        last = max(row["seq"] for row in expected)
        samples, gaps = samples_from(here / "tape" / "main", 0)
        whole = not gaps and messages_of(samples, [(0, BUNDLE)]) == expected
    lost, counters = losses(received), received.fresh(public.Health)[-1].counters
    shown = set(range(first, last)) - page.seqs
    public_equal = received.stream() == expected
    grown = (peak - early) / 2**20
    return [
        Row(
            f"{sum(GREEDY.values())} greedy subscribers for {scale.crowd_s:g} s: storms of "
            "subscriptions, thousands of long ones, messages, never reading",
            "recorder, history and page lose nothing, or each loss is counted; memory bounded",
            f"{counters.get('connections_cut', 0)} connections cut; lost: {lost or 'nothing'}; "
            f"{'every sample' if whole else 'NOT EVERY SAMPLE'} recorded, {len(shown)} of "
            f"{last - first} windows missing on the page; a plain subscriber got "
            f"{'all' if public_equal else 'NOT ALL'}; supervisor {grown:+.1f} MiB at its peak; "
            f"features killed after it: back in {took:.2f} s; {restarts(received)} restart",
            whole and not lost and not shown and grown < MEMORY_MIB and restarts(received) == 1,
        )
    ]
