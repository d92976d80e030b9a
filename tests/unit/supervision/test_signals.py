"""Stop and reload signals at any moment: no lock, no lost signal, no hang."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.pipelines import ROOT

ROUNDS = 300
PATIENCE_S = 60.0

STOPS = f"""
import faulthandler, os, random, signal, sys, time
from speech_emotion.supervision.signals import SignalRequests

faulthandler.dump_traceback_later({PATIENCE_S}, exit=True)
chance = random.Random(int(sys.argv[1]))
reader, writer = os.pipe()
target = os.getpid()
child = os.fork()
if child == 0:  # another process: its signals arrive inside the handler as well

    def spin(until):
        while time.perf_counter() < until:
            pass

    os.close(writer)
    while os.read(reader, 1) == b"x":
        start = time.perf_counter() + chance.uniform(0.0, 300e-6)
        spin(start)
        os.kill(target, signal.SIGTERM)
        if chance.random() < 0.7:
            spin(start + chance.uniform(0.0, 300e-6))
            os.kill(target, signal.SIGTERM)
    os._exit(0)

os.close(reader)
signals = SignalRequests()
for _ in range({ROUNDS}):
    before = signals.stops
    os.write(writer, b"x")
    began = time.monotonic()
    turns = 0
    while signals.stops == before:
        if turns % 2:
            signals.wakeup.set()  # as a line of a stage does
        turns += 1
        signals.wait(10.0)
    assert time.monotonic() - began < 9.0, "the signal did not end the wait"
os.write(writer, b"e")
os.wait()
print("ended")
"""


MOMENTS = f"""
import faulthandler, signal, sys
from speech_emotion.supervision.signals import SignalRequests

faulthandler.dump_traceback_later({PATIENCE_S}, exit=True)
signals = SignalRequests()


def turn():
    signals.wakeup.set()
    signals.wait(0.0)
    signals.wait(0.0)


def traced(moment):
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count in (moment, moment + 1):
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys._getframe().f_trace_opcodes = True  # Python 3.12 reads it when tracing begins
    sys.settrace(trace)
    turn()
    sys.settrace(None)
    return count


total = traced(0)
assert total > 50
for moment in range(1, total + 1):
    before = signals.stops
    traced(moment)
    assert signals.stops > before, moment
print(total)
"""


def test_a_stop_between_any_two_instructions_of_the_loop_is_counted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MOMENTS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", [1, 2])
def test_stops_at_random_microseconds_end_the_wait(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPS, str(seed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"


HANGUP = """
import sys
from speech_emotion.supervision.signals import SignalRequests
signals = SignalRequests()
print("ready", file=sys.stderr, flush=True)
while not signals.stops and not signals.reloads:
    signals.wait(10.0)
with open(sys.argv[1], "w") as file:
    file.write(f"{signals.stops} {signals.reloads}")
"""


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A terminal: its master side and the path of its slave side."""
    master, slave = pty.openpty()
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(slave)
        with contextlib.suppress(OSError):
            os.close(master)


def outcome(path: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not os.path.exists(path) or not os.path.getsize(path):
        assert time.monotonic() < deadline, "no signal arrived"
        time.sleep(0.01)
    with open(path) as file:
        return file.read()


def started(arguments: list[str], *, prefix: str = "") -> subprocess.Popen[bytes]:
    """The hang-up program in its own session, with a pipe as stderr."""
    command = [*prefix.split(), sys.executable, "-c", HANGUP, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT, start_new_session=True)
    assert process.stderr is not None
    while b"ready" not in (line := process.stderr.readline()):
        assert line, "it ended at once"
    return process


def test_sighup_without_a_terminal_is_a_reload(tmp_path: object) -> None:
    path = f"{tmp_path}/out"
    process = started([path])
    with process:
        process.send_signal(signal.SIGHUP)
        assert outcome(path) == "0 1"


def test_sighup_of_a_closed_terminal_is_a_stop(tmp_path: object) -> None:
    """Also where stderr goes to a file or a pipe."""
    path = f"{tmp_path}/out"
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        program = HANGUP.replace(
            'print("ready"', f"open({path + '.ready'!r}, 'w').close(); print(1"
        )
        os.execv(sys.executable, [sys.executable, "-c", program, path])
    deadline = time.monotonic() + PATIENCE_S
    while not os.path.exists(path + ".ready"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(master)  # the kernel hangs the terminal up and sends SIGHUP
    assert outcome(path) == "1 0"
    os.waitpid(pid, 0)


def test_sighup_under_nohup_is_never_a_stop(tmp_path: object) -> None:
    path = f"{tmp_path}/out"
    process = started([path], prefix="env nohup")
    with process:
        process.send_signal(signal.SIGHUP)
        assert outcome(path) == "0 1"
