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

from speech_emotion.common.errors import EXIT_OK
from speech_emotion.common.paths import DEMO_CLIP, IMPORT_ROOT

PAGE_PORT = 8765
RESULTS_PORT = 5555
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
        flags = [*source, *addresses(words), *words]
        if watched:
            print("Ctrl-C ends the demo.", file=sys.stderr)
        code = run(flags)
    if code == EXIT_OK:
        print(NEXT, file=sys.stderr)
    return code


def addresses(words: list[str]) -> list[str]:
    """Flags for the page and, where its default port is in use, for the results endpoint."""
    flags = []
    if not given("--dashboard", words) and importlib.util.find_spec("uvicorn"):
        page = f"127.0.0.1:{free_port(PAGE_PORT)}"
        print(f"The live page: http://{page}", file=sys.stderr)
        flags += ["--dashboard", page]
    if not given("--results", words) and (port := free_port(RESULTS_PORT)) != RESULTS_PORT:
        print(f"Port {RESULTS_PORT} is in use; results: tcp://127.0.0.1:{port}", file=sys.stderr)
        flags += ["--results", f"tcp://127.0.0.1:{port}"]
    return flags


def given(flag: str, words: list[str]) -> bool:
    return any(word == flag or word.startswith(f"{flag}=") for word in words)


def free_port(preferred: int) -> int:
    """The preferred port of this machine, or another one if it is in use."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return preferred


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
