"""The light and the audit log of a real pipeline."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.client.results import Results
from speech_emotion.common.closing import Closing
from speech_emotion.common.security.curve import read_public
from speech_emotion.common.wire import public
from tests.support.key_files import KeyFolder
from tests.support.pages import TOKEN, answers, get
from tests.support.pipelines import BUNDLE, PATIENCE_S, ROOT, Running, command, wait_until
from tests.support.swaps import OTHER
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return {"SEP_MUTE__STATE": str(tmp_path / "mute.json")}


class Led(Closing):
    """A folder as the kernel makes it for a LED; its brightness is a pipe, which keeps every value
    that is written: a light that was off for a moment is seen later, too.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.brightness = folder, folder / "brightness"
        os.mkfifo(self.brightness)
        (folder / "max_brightness").write_text("255\n")
        self._pipe = os.open(self.brightness, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    @property
    def states(self) -> list[bool]:
        """Whether it is on, from one value to the next."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._text += os.read(self._pipe, 4096).decode()
        return [value == "255" for value in re.findall("255|0", self._text)]

    @property
    def is_on(self) -> bool:
        return self.states[-1:] == [True]

    def close(self) -> None:
        os.close(self._pipe)


@pytest.fixture
def led(tmp_path: Path) -> Iterator[Led]:
    with Led(tmp_path / "led") as one:
        yield one


def test_the_light_is_on_exactly_while_sound_is_analysed(
    supervise: Supervise, clip: Clip, state: dict[str, str], led: Led
) -> None:
    running = supervise(
        f"--source=file:{clip(5.0, repeat=40)}", env={**state, "SEP_LIGHT__LED": str(led.folder)}
    )
    running.subscriber.wait_for(lambda r: bool(r.fresh(public.Result)))
    assert led.is_on  # before the first result
    pid = str(running.process.pid)
    assert command("mute", "--pid", pid).returncode == 0
    wait_until(lambda: not led.is_on, "the light to be off while muted")
    heard = len(running.received.fresh(public.Result))
    running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= heard + 3)
    assert not led.is_on
    assert command("unmute", "--pid", pid).returncode == 0
    wait_until(lambda: led.is_on, "the light")
    # A capture that is dead hears nothing.
    before = len(led.states)
    running.stages()["capture"].kill()
    wait_until(
        lambda: led.states[before:][:2] == [False, True], "the light to go off, and on again"
    )
    # Nor does a pipeline whose supervisor is killed.
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not led.is_on, "the light to be off")
    assert supervise(f"--source=file:{clip(1.0, name='next')}").ended()[0] == 0  # clears up


def test_without_light_nothing_is_analysed(
    supervise: Supervise, clip: Clip, state: dict[str, str], led: Led
) -> None:
    running = supervise(
        f"--source=file:{clip(5.0, repeat=40)}", env={**state, "SEP_LIGHT__LED": str(led.folder)}
    )
    wait_until(lambda: led.is_on, "the light")
    assert command("mute", "--pid", str(running.process.pid)).returncode == 0
    wait_until(lambda: not led.is_on, "the light to be off")
    led.brightness.unlink()
    led.brightness.mkdir()
    # It is unmuted, and muted again as soon as the light fails.
    command("unmute", "--pid", str(running.process.pid))

    def cause() -> list[str]:
        mute: public.Mute | None = running.received.fresh(public.Health)[-1].mute
        return mute.by if mute else []

    wait_until(lambda: cause() == ["light"], "the mute because of the light")
    before = len(running.received.fresh(public.Result))
    running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= before + 4)
    assert running.received.fresh(public.Result)[-1].state == "gap"
    running.process.terminate()
    assert running.ended()[0] == 0


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_audit_log_tells_what_happened(
    clip: Clip, state: dict[str, str], tmp_path: Path
) -> None:
    path, port = tmp_path / "audit.jsonl", free_port()
    curve = KeyFolder(tmp_path / "keys")
    settings = {
        **curve.env,
        **state,
        "SEP_AUDIT__FILE": str(path),
        "SEP_DASHBOARD__TOKEN": TOKEN,
        "SEP_BUNDLE": str(BUNDLE),
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "supervisor.py", f"--source=file:{clip(5.0, repeat=40)}"),
            *(f"--dashboard=127.0.0.1:{port}", f"--record={tmp_path / 'recordings'}"),
            *curve.flags,
        ],
        cwd=ROOT,
        env={**os.environ, **settings},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: answers(port), "the page")
        for given in ("wrong wrong wrong", TOKEN):
            get(port, "/login", method="POST", body=f"token={given}")
        with Results(curve.endpoint, client_keys=curve.client_keys("friend")) as friend:
            assert friend.receive(PATIENCE_S) is not None
        with Results(curve.endpoint, client_keys=curve.client_keys("stranger")) as stranger:
            wait_until(lambda: "key refused" in path.read_text(), "the refusal")
            assert stranger.receive(0.1) is None
        pid = str(process.pid)
        assert command("mute", "--for", "1h", "--pid", pid).returncode == 0
        assert command("unmute", "--pid", pid).returncode == 0
        assert command("swap", str(OTHER), "--pid", pid).returncode == 0
        done = command("audit", "verify", str(path))  # also while it is written
        assert done.returncode == 0, done.stdout
    finally:
        process.terminate()
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    rows = records(path)
    by_event = {row["event"]: row for row in rows}
    # The page and the keys report over sockets of their own.
    assert set(list(by_event)[:5]) == {
        *("start", "page refused", "page opened", "key allowed", "key refused")
    }
    order = ("mute asked", "muted", "unmute asked", "listening", "swap", "stop")
    assert tuple(list(by_event)[5:]) == order
    start = by_event["start"]
    assert start["sources"] == {"main": f"file:{clip(5.0, repeat=40)}"}
    assert start["record"] == str(tmp_path / "recordings")
    assert by_event["page refused"]["address"] == "127.0.0.1"
    assert by_event["key allowed"]["name"] == "friend"
    assert by_event["key refused"]["name"] is None
    refused = read_public(curve.folder / "stranger.key").decode()
    assert by_event["key refused"]["key"] == refused
    assert by_event["mute asked"]["seconds"] == 3600.0
    assert by_event["mute asked"]["by"].startswith("command of ")
    assert by_event["muted"]["by"] == ["hand"]
    assert by_event["swap"]["done"] is True
    assert by_event["stop"]["code"] == 0
    assert TOKEN not in path.read_text()
    # The journal has the last hash, to compare a shortened log with.
    assert f"last record {rows[-1]['n']} {rows[-1]['hash']}" in stderr
    done = command("audit", "verify", str(path))
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"last hash {rows[-1]['hash']}"
    path.write_text(path.read_text().replace('"by":"command of', '"by":"page at', 1))
    done = command("audit", "verify", str(path))
    assert done.returncode == 1
    line = next(n for n, row in enumerate(rows, 1) if row["event"] == "mute asked")
    assert done.stdout.startswith(f"broken: {path}:{line}: ")


def test_an_audit_log_that_cannot_be_used_is_one_line(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    code, stderr, _ = supervise(
        f"--source=file:{clip(3.0)}", env={"SEP_AUDIT__FILE": str(tmp_path)}
    ).ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert "cannot be opened" in line
    for words in (("audit", "verify"), ("audit", "verify", str(tmp_path / "nowhere"))):
        done = command(*words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
