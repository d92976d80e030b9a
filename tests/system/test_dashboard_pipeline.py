"""The page of a real pipeline: killed, without a port, stopped while pages are open, with keys."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from tests.support.key_files import KeyFolder
from tests.support.pages import Dashboard, answers, greeting, latest
from tests.support.pipelines import PATIENCE_S, ROOT, Received, Running, wait_until
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def test_a_killed_page_restarts_and_the_pipeline_goes_on(supervise: Supervise, clip: Clip) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(50.0, repeat=4)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    wait_until(lambda: bool(latest(greeting(port))), "a result on the page")
    first = running.stages()["dashboard"]
    first.kill()

    def complete() -> bool:
        """Whether it has got again what was published before: in any order."""
        if not answers(port):
            return False
        hello = greeting(port)
        return bool(latest(hello) and hello["streams"][0]["info"] and hello["health"])

    wait_until(complete, "the page again")
    assert running.stages()["dashboard"].pid != first.pid
    hello = greeting(port)
    assert hello["streams"][0]["info"]["gate"] == "adaptive"
    assert {s["name"] for s in hello["health"]["stages"]} >= {"dashboard", "infer"}
    running.subscriber.wait_for(lambda received: restarts(received) == 1)
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [one.seq for one in results] == list(range(len(results)))
    assert restarts(received) == 1


def restarts(received: Received) -> int:
    """Restarts of the page, as the newest health says."""
    rows = [s for h in received.fresh(public.Health) for s in h.stages if s.name == "dashboard"]
    newest: public.StageHealth = rows[-1]
    return newest.restarts


def test_a_page_that_cannot_start_does_not_end_the_pipeline(
    supervise: Supervise, clip: Clip
) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(50.0, repeat=4)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    # Before its first heartbeat, a port in use would be a mistake of the user.
    running.subscriber.wait_for(
        lambda received: any(
            (stage.name, stage.state) == ("dashboard", "ready")
            for health in received.fresh(public.Health)[-1:]
            for stage in health.stages
        )
    )
    running.stages()["dashboard"].suspend()  # the port must stay in use until the thief takes it
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        running.stages()["dashboard"].kill()

        def stolen() -> bool:
            try:
                thief.bind(("127.0.0.1", port))
            except OSError:
                if (page := running.stages().get("dashboard")) is not None:
                    with contextlib.suppress(psutil.NoSuchProcess):  # it ended a moment ago
                        page.kill()
                return False
            thief.listen()
            return True

        wait_until(stolen, "the port")
        running.subscriber.wait_for(
            lambda received: any(
                stage.name == "dashboard" and "already in use" in (stage.reason or "")
                for stage in received.fresh(public.Health)[-1].stages
            )
        )
        code, stderr, received = running.stopped()
    assert code == 0, stderr
    assert "already in use" in stderr
    results = received.fresh(public.Result)
    assert [one.seq for one in results] == list(range(len(results)))


def test_a_stopped_pipeline_ends_with_pages_open(supervise: Supervise, clip: Clip) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(50.0, repeat=4)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    with (
        socket.create_connection(("127.0.0.1", port)) as open_page,
        socket.create_connection(("127.0.0.1", port)) as unread_page,
    ):
        for connection in (open_page, unread_page):
            connection.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        shown = bytearray()

        def greeted() -> bool:
            shown.extend(open_page.recv(1 << 16))
            return b"event: state" in shown

        wait_until(greeted, "the greeting")
        running.process.terminate()
        code, stderr, _ = running.ended()
    assert code == 0, stderr
    assert "Traceback" not in stderr


def test_a_port_in_use_is_reported_before_anything_starts(supervise: Supervise, clip: Clip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr, _ = supervise(
            f"--source=file:{clip(3.0)}", f"--dashboard=127.0.0.1:{port}"
        ).ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert f"127.0.0.1:{port}" in line


def written(history: Path) -> bool:
    """Whether a history file has a row of the stream."""
    with contextlib.suppress(UserError), HistoryReader(history) as reader:
        return reader.bounds("main") is not None
    return False


def test_page_history_and_terminal_accept_keys(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    keys_folder = KeyFolder(tmp_path / "keys")
    sound = clip(50.0, repeat=4)
    running = supervise(f"--source=file:{sound}", *keys_folder.flags, env=keys_folder.env)
    keys = ["--secret", str(keys_folder.folder / "friend.key_secret")]
    keys += ["--server", str(keys_folder.folder / "box.key")]
    kept = tmp_path / "kept.sqlite"
    history = subprocess.Popen(
        [
            *(sys.executable, "-m", "speech_emotion", "history", "--results", keys_folder.endpoint),
            *("--file", str(kept), *keys),
        ],
        cwd=ROOT,
    )
    page = Dashboard(keys_folder.endpoint, *keys)
    without_keys = Dashboard(keys_folder.endpoint)
    try:
        wait_until(lambda: bool(latest(greeting(page.port))), "a result on the page")
        command = [sys.executable, "-m", "speech_emotion", "watch", "--once", "--endpoint"]
        command += [keys_folder.endpoint]

        def watched() -> bool:
            """It shows what arrives within 1.5 s."""
            done = subprocess.run([*command, *keys], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return "main" in done.stdout

        wait_until(watched, "the state in the terminal")
        half = subprocess.run([*command, *keys[:2]], cwd=ROOT, capture_output=True, text=True)
        assert (half.returncode, half.stderr.count("\n")) == (2, 1)
        assert latest(greeting(without_keys.port)) == []
        wait_until(lambda: written(kept), "a row of the history")
    finally:
        page.end()
        without_keys.end()
        history.terminate()
        assert history.wait(PATIENCE_S) == 0
    assert written(kept)
    running.process.terminate()
    assert running.ended()[0] == 0
