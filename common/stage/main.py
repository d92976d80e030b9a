"""The main function of every stage process: flags, logging, profile, errors, exit code."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from speech_emotion.common.errors import (
    EXIT_DEVICE,
    EXIT_FAULT,
    EXIT_OK,
    EXIT_USER,
    DeviceError,
    UserError,
)
from speech_emotion.common.linux.process_identity import restrict_file_access
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD, request_short_time_slices

ERROR_LINE_MARK = "\x1e"
"""Marks the line with which a supervised process says why it ends; the supervisor passes it on."""


LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see --help", file=sys.stderr)
        sys.exit(EXIT_USER)


def program(command: str, otherwise: str) -> str:
    """How the user called this command: `speech-emotion COMMAND`, or `otherwise`."""
    called = f"speech-emotion {command}"
    return called if sys.argv[0] == called else otherwise


def base_parser(stage: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags that every stage has."""
    parser = Parser(
        prog=program(stage, f"python -m {stage}"),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", type=Path, metavar="OUT", help="write a cProfile file at exit")
    # The supervisor's way in: one JSON object on standard input instead of flags.
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(name: str, main: Callable[[], int], profile: Path | None = None) -> NoReturn:
    """Run a stage's main function as a process: logging, profile, errors, exit code."""
    faulthandler.enable()
    restrict_file_access()
    for variable, value in ONE_BLAS_THREAD.items():
        os.environ.setdefault(variable, value)
    request_short_time_slices()  # before there are threads, which take theirs from this one
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
    print(f"{ERROR_LINE_MARK if supervised else ''}{reason}", file=sys.stderr)


def _set_title(title: str) -> None:
    # Its environment stays readable to `ps e` and the like.
    os.environ.setdefault("SPT_NOENV", "1")
    import setproctitle

    setproctitle.setproctitle(title)


def _die_with_thread(args: threading.ExceptHookArgs) -> None:
    # A process whose worker is dead looks alive and does nothing: end it.
    threading.__excepthook__(args)
    os._exit(EXIT_FAULT)
