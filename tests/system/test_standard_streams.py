"""stdin, stdout and stderr that are closed, full or poor, and Ctrl-C at once: never a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pipelines import BUNDLE, DEMO, PATIENCE_S, ROOT, fresh_endpoint

Clip = Callable[..., Path]

PROGRAMS = {
    "supervisor": ["supervisor.py", "--print-config"],
    "supervisor help": ["supervisor.py", "--help"],
    "command": ["-m", "speech_emotion", "--help"],
    "infer help": ["-m", "infer", "--help"],
    "infer": ["-m", "infer", str(DEMO), "--json", "--bundle", str(BUNDLE)],
    "features": ["-m", "features", str(DEMO)],
}


def shell(line: str, program: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `sh -c LINE` in which "$@" is the program."""
    return subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, *program],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=ROOT,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
    )


def quiet(text: str) -> bool:
    """Whether a program's stderr has neither a traceback nor Python's complaint at the exit."""
    return not any(
        word in text for word in ("Traceback", "Exception ignored", "Error:", "lost sys.")
    )


def catches_sigint(pid: int) -> bool:
    """Whether a process has a handler for SIGINT; see proc_pid_status(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGINT - 1) & 1)


@pytest.mark.costly_cases
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_full_disk_behind_stdout_is_one_line(name: str) -> None:
    done = shell('exec "$@" > /dev/full', PROGRAMS[name])
    assert quiet(done.stderr), done.stderr
    if "--help" not in PROGRAMS[name] or name == "command":  # argparse ignores it
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.costly_cases
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-", "2>&-"])
def test_closed_streams(name: str, closed: str) -> None:
    done = shell(f'exec "$@" {closed}', PROGRAMS[name])
    assert quiet(done.stderr), done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.costly_cases
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_reader_that_has_gone(name: str) -> None:
    done = shell('"$@" | true', PROGRAMS[name])
    assert quiet(done.stderr), done.stderr


def test_a_pipeline_with_closed_streams_runs_to_its_end(clip: Clip) -> None:
    flags = ["--source", f"file:{clip(3.0)}", "--speed=max", "--results", fresh_endpoint()]
    done = shell('"$@" <&- >&- 2>&-', ["supervisor.py", *flags])
    assert done.returncode == 0
    done = shell('"$@" 2> /dev/full', ["supervisor.py", *flags])
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_terminal_can_show_it(encoding: str, tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    watch = ["-m", "speech_emotion", "watch", "--once", "--results", fresh_endpoint()]
    done = shell('"$@"', watch, **environment)
    assert quiet(done.stderr), done.stderr
    assert done.returncode == 0, done.stderr
    missing = os.fsdecode(os.fsencode(str(tmp_path / "a")) + b"\xff\xe9.wav")
    done = shell('"$@"', ["-m", "infer", missing], **environment)
    assert quiet(done.stderr), done.stderr
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "\\xff\\xe9.wav" in done.stderr


@pytest.mark.costly_cases
@pytest.mark.parametrize("profile", ["nowhere/x.prof", "/proc/x.prof", "."])
@pytest.mark.parametrize("program", [["supervisor.py"], ["-m", "infer", str(DEMO)]])
def test_a_profile_that_cannot_be_written_is_one_line(program: list[str], profile: str) -> None:
    value = f"infer={profile}" if program == ["supervisor.py"] else profile
    source = ["--source", f"file:{DEMO}"] if program == ["supervisor.py"] else []
    done = shell('"$@"', [*program, *source, "--profile", value])
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "--profile" in line
    assert "cannot be written" in line


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    "program",
    [
        ["supervisor.py", "--source", f"file:{DEMO}"],
        ["-m", "speech_emotion", "run", "--source", f"file:{DEMO}"],
        ["-m", "speech_emotion", "subscribe"],
        ["-m", "infer", str(DEMO)],
        ["-m", "features", str(DEMO)],
        ["-m", "capture", "--source", f"file:{DEMO}"],
    ],
    ids=lambda words: " ".join(words[:3]).replace("/", "_"),
)
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.5])
def test_ctrl_c_at_once_leaves_no_traceback(program: list[str], delay: float) -> None:
    endpoint = {"SEP_RESULTS": fresh_endpoint()} if "supervisor.py" in program else {}
    process = subprocess.Popen(
        [sys.executable, *program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **endpoint},
    )
    # Python sets a handler before it runs our first line, which removes it.
    deadline = time.monotonic() + PATIENCE_S
    for caught in (True, False):
        while catches_sigint(process.pid) is not caught:
            assert time.monotonic() < deadline
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert quiet(stderr), stderr
    assert process.returncode in (0, -signal.SIGINT)


CALLBACK = """
import signal, sys, time, weakref
from speech_emotion.common.linux.entry import guarded, prepare

prepare()

class Module:
    pass

def main():
    module = Module()
    reference = weakref.ref(module, lambda _: signal.raise_signal(signal.SIGINT))
    if "delete" in sys.argv:
        Module.__del__ = lambda _: signal.raise_signal(signal.SIGINT)
        reference = None
    del module
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        time.sleep(0.05)
    return 9

sys.exit(guarded("program", main))
"""


@pytest.mark.parametrize("place", ["callback", "delete"])
def test_ctrl_c_ends_a_program_where_python_cannot_raise_it(place: str) -> None:
    done = shell('"$@"', ["-c", CALLBACK, place])
    assert done.stderr == ""
    assert done.returncode == 0
