"""What every stage process does around its own work: start, beat, profile, end.

A stage's `__main__` calls `run(...)`; its loop calls `Heart.beat(...)`. Nothing here knows
what a stage computes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import faulthandler
import json
import logging
import os
import resource
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import zmq

from common import messages as m
from common.errors import EXIT_DEVICE, EXIT_FAULT, EXIT_OK, EXIT_USER, DeviceError, UserError
from common.process import keep_private
from common.punctual import ask_for_short_slices
from common.sockets import connect, send

BEAT_S = 0.5
STANDBY = "standby"
"""State of a stage that is ready to take another one's place."""
PR_SET_PDEATHSIG = 1
ONE_BLAS_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)
"""Environment to set before numpy is imported: more threads cost CPU and punctuality."""
LAST_WORDS = "\x1e"
"""Marks the line with which a supervised process says why it ends; the supervisor passes it on."""
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see --help", file=sys.stderr)
        sys.exit(EXIT_USER)


def base_parser(stage: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every stage has."""
    parser = Parser(
        prog=f"python -m {stage}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", type=Path, metavar="OUT", help="write a cProfile file at exit")
    # The supervisor's way in: one JSON object on standard input instead of flags.
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    return parser


def read_job() -> dict[str, Any]:
    """The job, a line that the supervisor wrote to standard input; ties this process to its life.

    The kernel kills this process when the supervisor dies, even
    while it is stopped or stuck.
    """
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != job["supervisor_pid"]:
        os._exit(EXIT_FAULT)  # it died before the kernel knew
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    with contextlib.suppress(PermissionError):  # below 0 is not for everybody
        os.setpriority(os.PRIO_PROCESS, 0, job["nice"])
    return job


def run(name: str, main: Callable[[], int], profile: Path | None = None) -> NoReturn:
    """Run a stage's main function as a process: logging, profile, errors, exit code."""
    faulthandler.enable()
    keep_private()
    for variable, value in ONE_BLAS_THREAD.items():
        os.environ.setdefault(variable, value)
    ask_for_short_slices()  # before there are threads, which take theirs from this one
    _set_title(f"sep {name}")
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt="%H:%M:%S")
    threading.excepthook = _die_with_thread
    profiler = None
    if profile is not None:
        import cProfile

        profiler = cProfile.Profile()
        profiler.enable()
    try:
        code = main()
    except UserError as error:
        _say_why(f"{name}: {error}")
        code = EXIT_USER
    except DeviceError as error:
        _say_why(f"{name}: {error}")
        code = EXIT_DEVICE
    except (KeyboardInterrupt, BrokenPipeError):
        code = EXIT_OK
    finally:
        if profiler is not None and profile is not None:
            profiler.disable()
            profiler.dump_stats(profile)
            print(f"{name}: profile written to {profile}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)


def _say_why(reason: str) -> None:
    supervised = "--supervised" in sys.argv
    print(f"{LAST_WORDS if supervised else ''}{reason}", file=sys.stderr)


def _set_title(title: str) -> None:
    # Its environment stays readable to `ps e` and the like.
    os.environ.setdefault("SPT_NOENV", "1")
    import setproctitle

    setproctitle.setproctitle(title)


def _die_with_thread(args: threading.ExceptHookArgs) -> None:
    # A process whose worker is dead looks alive and does nothing: end it.
    threading.__excepthook__(args)
    os._exit(EXIT_FAULT)


class Stop:
    """Set by SIGTERM, and by SIGINT where nobody supervises: end in order."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._request)

    def _request(self, _signum: int, _frame: object) -> None:
        self.requested = True


class Heart:
    """Heartbeats of one stage, sent from its main loop so that a stuck loop is silent.

    Args:
        stage: the stage's name, `features` or `features/1`.
        hub: socket connected to the hub, shared with the stage's own messages.
    """

    def __init__(self, stage: str, hub: zmq.Socket[bytes]) -> None:
        self.stage = stage
        self.state = "starting"
        self.count = 0
        self.drops = 0
        self.lag_ms: float | None = None
        self.counters: Counter[str] = Counter()
        self._hub = hub
        self._due = 0.0
        self._then = time.monotonic()
        self._count_then = 0
        self._cpu_then = time.process_time()

    def due(self) -> bool:
        """Whether it is time for a heartbeat."""
        return time.monotonic() >= self._due

    def beat(self, streams: list[m.SourceStatus] | None = None, *, now: bool = False) -> None:
        """Send a heartbeat if one is due, or at once."""
        if not now and not self.due():
            return
        monotonic = time.monotonic()
        self._due = monotonic + BEAT_S
        elapsed = max(monotonic - self._then, 1e-3)
        cpu = time.process_time()
        message = m.Heartbeat(
            stage=self.stage,
            pid=os.getpid(),
            state=self.state,
            count=self.count,
            rate_hz=round((self.count - self._count_then) / elapsed, 2),
            lag_ms=None if self.lag_ms is None else round(self.lag_ms, 2),
            drops=self.drops,
            cpu_percent=round(100.0 * (cpu - self._cpu_then) / elapsed, 1),
            rss_mb=rss_mb(),
            streams=streams or [],
            counters=dict(self.counters),
        )
        self._then, self._count_then, self._cpu_then = monotonic, self.count, cpu
        send(self._hub, message)


def rss_mb() -> float:
    """Resident set of this process in MiB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def stand_by(name: str, hub: str, stop: Stop) -> bool:
    """Beat as `name`, all work prepared, until the supervisor closes standard input.

    Returns:
        False where this process is to end instead.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        heart = Heart(name, connect(context, hub, "hub"))
        heart.state = STANDBY
        heart.beat(now=True)
        while not select.select([sys.stdin], [], [], BEAT_S / 2)[0]:
            if stop.requested:
                return False
            heart.beat()
    finally:
        context.destroy(linger=0)
    return not stop.requested
