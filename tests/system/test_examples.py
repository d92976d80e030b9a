"""The example subscribers with a real pipeline; errors of the user in all examples."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.common.wire import public
from tests.support.pipelines import PATIENCE_S, ROOT, Running, line_of

EXAMPLES = ROOT / "examples"
Supervise = Callable[..., Running]
Clip = Callable[..., Path]
Start = Callable[[Running], subprocess.Popen[str]]


@pytest.fixture
def python_subscriber() -> Start:
    def start(running: Running) -> subprocess.Popen[str]:
        program = [sys.executable, str(EXAMPLES / "subscribe.py"), running.endpoint]
        return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def node_subscriber(tmp_path: Path) -> Start:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = shutil.copytree(
        EXAMPLES / "node", tmp_path / "node", ignore=shutil.ignore_patterns("node_modules")
    )
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True
    )
    if installed.returncode != 0:
        pytest.skip(f"npm ci failed: {installed.stderr.strip().splitlines()[-1]}")

    def start(running: Running) -> subprocess.Popen[str]:
        program = ["node", "subscribe.mjs", running.endpoint]
        return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=folder)

    return start


@pytest.fixture(params=["python", pytest.param("node", marks=pytest.mark.slow)])
def subscriber(request: pytest.FixtureRequest) -> Start:
    start: Start = request.getfixturevalue(f"{request.param}_subscriber")
    return start


def test_an_example_prints_every_result_of_its_stream(
    supervise: Supervise, clip: Clip, subscriber: Start
) -> None:
    # The subscription `main` is a prefix of `main-2`, which must not be printed.
    clips = (clip(9.0, repeat=20, name=name) for name in ("one", "other"))
    running = supervise(*(f"--source=file:{path}" for path in clips))
    example = subscriber(running)
    try:
        lines = [line_of(example) for _ in range(5)]
        code, stderr, received = running.stopped()
        assert code == 0, stderr
        results = received.fresh(public.Result, "main")
        while lines[-1].split()[0] != str(results[-1].seq):
            lines.append(line_of(example))
    finally:
        example.kill()
        rest, _ = example.communicate()
    assert rest == ""
    known = {result.seq: result for result in results}
    rows = [line.split() for line in lines]
    seqs = [int(row[0]) for row in rows]
    # If it subscribed late, its first result is a replay.
    assert sorted(set(seqs)) == list(range(seqs[0], results[-1].seq + 1))
    assert len(seqs) <= len(set(seqs)) + 1
    for number, state, emotion, confidence in rows:
        result = known[int(number)]
        assert state == result.state
        if result.emotion is None:
            assert (emotion, confidence) in (("None", "None"), ("null", "null"))
        else:
            assert (emotion, float(confidence)) == (result.emotion, result.confidence)


def test_the_python_example_is_short() -> None:
    assert len((EXAMPLES / "subscribe.py").read_text().splitlines()) < 30


PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py"))
WITHOUT_PACKAGES = {"follow_http.py"}
"""Programs that need the standard library only."""
HEAVY = {
    "pytorch_model.py": "torch",
    "pipecat_perception.py": "pipecat",  # tests/system/test_voice_agents.py
    "livekit_perception.py": "livekit",
    "ros2_node.py": "rclpy",
}
"""Programs with packages that the tests' environment does not have."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_each_example(name: str) -> None:
    if name in HEAVY:
        pytest.importorskip(HEAVY[name])
    done = run_example(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("flags", [[], ["--help"]], ids=str)
@pytest.mark.parametrize("name", [n for n in PROGRAMS if n not in WITHOUT_PACKAGES])
def test_a_missing_package_is_one_line(name: str, flags: list[str]) -> None:
    done = run_example(name, *flags, options=("-I", "-S"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert re.search("is missing; (.* )?pip install", line)


def run_example(
    name: str, *flags: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, str(EXAMPLES / name), *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_node_example_pins_what_it_needs_and_names_no_host() -> None:
    package = json.loads((EXAMPLES / "node" / "package.json").read_text())
    lock = json.loads((EXAMPLES / "node" / "package-lock.json").read_text())
    for name, version in package["dependencies"].items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert "resolved" not in (EXAMPLES / "node" / "package-lock.json").read_text()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SIZED = HEAD + b"Content-Length: 9999\r\n\r\n"
WHOLE = HEAD + b"Connection: close\r\n\r\n"


def utterance(number: int, emotion: str) -> bytes:
    data = {"stream": "main", "emotion": emotion, "confidence": 0.75}
    return f"id: {number}\nevent: utterance\ndata: {json.dumps(data)}\n\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answering(listener: socket.socket, cut: bytes, rest: bytes, places: list[str]) -> None:
    """Cut the first answer off, and keep the second one open; notes each `Last-Event-ID`."""
    with contextlib.suppress(OSError):  # the program was ended
        for answer in (cut, rest):
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as request:
                place = ""
                while line := request.readline().strip():
                    if line.lower().startswith(b"last-event-id:"):
                        place = line.decode().partition(": ")[2]
                places.append(place)
                connection.sendall(answer)
                if answer is rest:
                    request.read()  # until the program is ended


FIRST, SECOND = utterance(1, "sad"), utterance(22, "happy")
CUTS = {
    "nothing": b"",
    "status": HEAD[:4],
    "head": HEAD[:-10],
    "error": b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\nbus",
    "id": WHOLE + FIRST + SECOND[:5],
    "data": WHOLE + FIRST + SECOND[:-20],
    "end": WHOLE + FIRST + SECOND[:-1],
    "character": WHOLE + FIRST + 'id: 22\ndata: {"stream": "é'.encode()[:-1],
    "between": WHOLE + FIRST,
    "length": SIZED + FIRST + SECOND[:-20],
    "chunk": CHUNKED + chunk(FIRST) + chunk(SECOND)[:-20],
    "chunks": CHUNKED + chunk(FIRST) + chunk(SECOND[:-20]),
}
"""What arrives of an answer, by where it is cut off."""


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_the_http_example_goes_on_after_an_answer_that_was_cut_off(cut: bytes) -> None:
    begun = FIRST in cut
    rest = WHOLE + (b"" if begun else FIRST) + SECOND
    places: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answering, args=(listener, cut, rest, places))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        example = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "follow_http.py"), url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            lines = [line_of(example) for _ in range(2)]
        finally:
            example.kill()
            stdout, stderr = example.communicate()
            listener.shutdown(socket.SHUT_RDWR)  # wakes the server where it waits
            server.join()
    assert lines == ["main  sad  75%\n", "main  happy  75%\n"]
    assert stdout == ""
    said = f"{url}/api/v1/utterances: the answer was cut off; trying again\n"
    assert (stderr, places) == (said, ["", "1" if begun else ""])
