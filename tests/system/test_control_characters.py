"""Control characters in names, labels and reasons never reach a terminal or the page."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from speech_emotion.commands import swap
from speech_emotion.commands.finding import look
from speech_emotion.common.errors import printable
from speech_emotion.common.linux.runtime_dir import create_runtime_dir
from speech_emotion.common.wire import control_messages
from speech_emotion.supervision.console.view import BackgroundView, LiveView, PlainView
from speech_emotion.supervision.control_socket import ControlSocket
from tests.support.history import make_utterance
from tests.support.live_page import INFO, live
from tests.support.pages import Dashboard, get, greeting
from tests.support.pipelines import BUNDLE, ROOT, wait_until
from tests.support.publisher import Publisher, health

EVIL = "\x1b]0;title\x07\x9b31m\u202eangry\n\r"
RAW = "\x1b\x07\x9b\u202e\r"


def messages() -> Iterator[Any]:
    """Every kind of public message with `EVIL` in every text that is free."""
    well = health()
    stage = dataclasses.replace(well.stages[0], name=EVIL, state=EVIL, reason=EVIL)
    source = dataclasses.replace(well.streams[0], state=EVIL, reason=EVIL, device=EVIL)
    for seq in itertools.count():
        smoothed = {EVIL: 0.75, "sad": 0.25}
        yield dataclasses.replace(INFO, source=EVIL, bundle=EVIL, labels=[EVIL, "sad"])
        yield live(seq, emotion=EVIL, smoothed=smoothed, probabilities=smoothed, bundle=EVIL)
        yield dataclasses.replace(make_utterance(seq), emotion=EVIL, reason=EVIL, time=time.time())
        yield dataclasses.replace(
            well, time=time.time(), state=EVIL, stages=[stage], streams=[source], counters={EVIL: 1}
        )


def raw(text: str) -> set[str]:
    return {character for character in text if character in RAW}


PROGRAMS = {
    "subscribe": ["-m", "speech_emotion", "subscribe", "--endpoint"],
    "subscribe --json": ["-m", "speech_emotion", "subscribe", "--json", "--endpoint"],
    "alerts.py": ["examples/alerts.py", "--emotion", printable(EVIL), "--endpoint"],
    "subscribe.py": ["examples/subscribe.py"],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_print_them_escaped(publisher: tuple[Publisher, str], name: str) -> None:
    process = subprocess.Popen(
        [sys.executable, *PROGRAMS[name], publisher[1]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )
    try:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        output = b""
        stream = messages()

        def shown() -> bool:
            nonlocal output
            publisher[0].send(next(stream))
            time.sleep(0.02)
            with contextlib.suppress(TypeError):
                output += process.stdout.read()  # type: ignore[union-attr]
            return output.count(b"angry") >= 3

        wait_until(shown, "the label")
    finally:
        process.kill()
        process.communicate()
    assert raw(output.decode(errors="replace")) == set()  # it may end within a character


def test_the_terminal_view_shows_them_escaped(publisher: tuple[Publisher, str]) -> None:
    from rich.console import Console

    from speech_emotion.commands.watch import Screen
    from speech_emotion.common.client.results import Results

    with Results(publisher[1]) as results:
        publisher[0].wait_for(results)
        for message in itertools.islice(messages(), 8):
            publisher[0].send(message)
        screen = Screen(results)

        def taken() -> bool:
            screen.take(0.05)
            return results.health is not None

        wait_until(taken, "the messages")
        console = Console(width=200, file=None, record=True, color_system=None)
        with console.capture() as capture:
            console.print(screen)
    assert "angry" in capture.get()
    assert raw(capture.get()) == set()


@pytest.mark.parametrize("view", [PlainView, LiveView])
def test_the_supervisor_prints_them_escaped(view: Any, capfd: pytest.CaptureFixture[str]) -> None:
    reason = dataclasses.replace(health().streams[0], state="lost", reason=EVIL)
    with BackgroundView(view()) as background:
        background.write(f"capture: {EVIL}")
        background.show([], dataclasses.replace(health(), state="degraded", streams=[reason]))
        wait_until(lambda: not background._calls.unfinished_tasks, "both to be printed")
    output = capfd.readouterr().err
    assert "angry" in output
    assert raw(output) - {"\r"} == set() or view is LiveView
    assert "\x1b]0;" not in output
    assert "\x9b" not in output


def test_the_page_gets_them_escaped(publisher: tuple[Publisher, str]) -> None:
    server = Dashboard(publisher[1])
    try:
        publisher[0].wait_for()
        for message in itertools.islice(messages(), 8):
            publisher[0].send(message)
        wait_until(lambda: bool(greeting(server.port)["health"]), "the messages")
        recent = json.loads(get(server.port, "/api/v1/recent?stream=main")[2])
        texts = json.dumps([greeting(server.port), recent], ensure_ascii=False)
    finally:
        server.end()
    assert "angry" in texts
    assert raw(texts) == set()


def test_the_answer_to_a_swap_is_printed_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    folder = create_runtime_dir()
    control = ControlSocket(folder)
    outcome: list[int] = []
    words = [str(BUNDLE), "--pid", str(os.getpid())]
    thread = threading.Thread(target=lambda: outcome.append(swap.main(words)))
    thread.start()
    requests: list[Any] = []

    def asked() -> bool:
        requests.extend(control.requests())
        return bool(requests)

    wait_until(asked, "the request")
    control.answer(requests[0][0], control_messages.Swapped(1, EVIL))
    thread.join()
    control.close()
    folder.rmdir()
    output = capsys.readouterr().out
    assert outcome == [1]
    assert "angry" in output
    assert raw(output) == set()


def test_devices_and_findings_are_printed_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from speech_emotion.capture import __main__ as capture
    from speech_emotion.capture.sources import portaudio

    device = portaudio.Device(0, EVIL, None, 1, 16000, True, EVIL, False)
    monkeypatch.setattr(portaudio, "input_devices", lambda: [device])
    assert capture.list_devices() == 0
    output = capsys.readouterr().out + "".join(look("microphone", EVIL, EVIL).lines())
    assert output.count("angry") >= 3
    assert raw(output) == set()
