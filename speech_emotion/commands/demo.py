"""Run the pipeline on a recording that comes with it, with the live page.

usage: speech-emotion demo [FLAGS OF speech-emotion run]

On a terminal the recording is repeated until Ctrl-C; otherwise, and with --speed, it is played
once. If port 8765 (page) or 5555 (results) is in use, another one is taken and printed.

examples:
  speech-emotion demo
  speech-emotion demo --speed max    as fast as the machine can
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from speech_emotion.common.errors import EXIT_OK, EXIT_USER
from speech_emotion.common.paths import DEMO_CLIP, IMPORT_ROOT

HOST = "127.0.0.1"
PAGE_PORT = 8765
RESULTS_PORT = 5555
ATTEMPTS = 5
"""How often other ports are chosen because another program has taken one."""
REPEATS = 20
"""How often the recording is played on a terminal, where Ctrl-C ends the demo: 18 minutes."""
NEXT = """
The demo has ended. What comes next:
  speech-emotion devices            list the microphones
  speech-emotion run --dashboard    listen to the default one, with the live page
  speech-emotion infer talk.wav     classify a sound file
  speech-emotion doctor             check this machine
In a checkout the command is .venv/bin/speech-emotion. Documents: docs/README.md"""


def main(words: list[str]) -> int:
    """Run `speech-emotion run` on the demo recording with further flags; returns the exit code."""
    if {"-h", "--help"} & set(words):
        print(__doc__.rstrip())
        return 0
    watched = sys.stdin.isatty() and sys.stderr.isatty() and "CI" not in os.environ
    with tempfile.TemporaryDirectory() as folder:
        clip = repeat(DEMO_CLIP, Path(folder)) if watched and "--speed" not in words else DEMO_CLIP
        source = ["--source", f"file:{clip}"]
        # A mistake in a flag is the first and only line: not after the address of a page.
        if words and (code := run([*source, *words, "--print-config"], silent=True)) != EXIT_OK:
            return code
        for _ in range(ATTEMPTS):
            ports = chosen(words)
            flags = [*source, *addresses(ports), *words]
            if watched:
                print("Ctrl-C ends the demo.", file=sys.stderr)
            code = run(flags)
            # Another program may take a port after its choice; the pipeline then does not start.
            if code != EXIT_USER or not any(map(in_use, ports.values())):
                break
    if code == EXIT_OK:
        print(NEXT, file=sys.stderr)
    return code


def chosen(words: list[str]) -> dict[str, int]:
    """Flag → port of the page and of the results, where the user has not given the flag."""
    ports = {}
    if not given("--dashboard", words) and importlib.util.find_spec("uvicorn"):
        ports["--dashboard"] = free_port(PAGE_PORT)
    if not given("--results", words):
        ports["--results"] = free_port(RESULTS_PORT)
    return ports


def addresses(ports: dict[str, int]) -> list[str]:
    """Print the addresses, and return the flags for them; usual results need neither."""
    flags = []
    if port := ports.get("--dashboard"):
        print(f"The live page: http://{HOST}:{port}", file=sys.stderr)
        flags += ["--dashboard", f"{HOST}:{port}"]
    if (port := ports.get("--results", RESULTS_PORT)) != RESULTS_PORT:
        print(f"Port {RESULTS_PORT} is in use; results: tcp://{HOST}:{port}", file=sys.stderr)
        flags += ["--results", f"tcp://{HOST}:{port}"]
    return flags


def given(flag: str, words: list[str]) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


def free_port(preferred: int) -> int:
    """The preferred port of this machine, or another one if it is in use."""
    return bound(preferred) or bound(0) or preferred


def in_use(port: int) -> bool:
    return bound(port) is None


def bound(port: int) -> int | None:
    """The port that a server gets which binds `port` (0: any); None: it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def repeat(clip: Path, folder: Path) -> Path:
    """A file with the recording `REPEATS` times."""
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(clip, dtype="int16")
    path = folder / "demo.flac"
    soundfile.write(path, np.tile(samples, REPEATS), rate)
    return path


def run(flags: list[str], *, silent: bool = False) -> int:
    """Run the supervisor with these flags in a process of its own; returns its exit code.

    Args:
        silent: discard its standard output.
    """
    places = [str(IMPORT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "speech_emotion", "run", *flags],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        stdout=subprocess.DEVNULL if silent else None,
    )
    before = {
        signum: signal.signal(signum, lambda number, _: process.send_signal(number))
        for signum in (signal.SIGTERM, signal.SIGHUP)
    }
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal sends Ctrl-C to both processes
            continue
        for signum, handler in before.items():
            signal.signal(signum, handler)
        return code
