"""Main function of every stage process: flags, logging, profile, errors, exit code."""

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

from speech_emotion.common.errors import EXIT_FAULT, EXIT_USER, UserError
from speech_emotion.common.linux.entry import guarded
from speech_emotion.common.linux.process_identity import restrict_file_access
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD, request_short_time_slices

ERROR_LINE_MARK = "\x1e"
"""First character of the line in which a supervised process gives the cause of its end."""

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see --help", file=sys.stderr)
        sys.exit(EXIT_USER)


def program(command: str, otherwise: str) -> str:
    """The command as the user called it: `speech-emotion COMMAND`, or `otherwise`."""
    called = f"speech-emotion {command}"
    return called if sys.argv[0] == called else otherwise


def base_parser(stage: str, description: str, module: str | None = None) -> argparse.ArgumentParser:
    """A parser with the flags of every stage.

    Args:
        stage: name of the stage, which is its subcommand of `speech-emotion`.
        module: what `python -m` runs; default: the name of the stage.
    """
    parser = Parser(
        prog=program(stage, f"python -m {module or stage}"),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", type=Path, metavar="OUT", help="write a cProfile file at exit")
    # The supervisor uses this flag: the job arrives on standard input instead of in flags.
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    return parser


def run(
    name: str, parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], int]
) -> NoReturn:
    """Run a stage's main function as a process, and exit with its code.

    Args:
        name: name of the stage, in log lines and in the process title.
        parser: made by `base_parser`; its --help can meet a full or closed stdout, too.
    """
    faulthandler.enable()
    restrict_file_access()
    for variable, value in ONE_BLAS_THREAD.items():
        os.environ.setdefault(variable, value)
    request_short_time_slices()  # before the first thread starts: threads inherit them
    _set_title(f"sep {name}")
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, datefmt="%H:%M:%S")
    threading.excepthook = _exit_with_thread
    mark = ERROR_LINE_MARK if "--supervised" in sys.argv else ""
    sys.exit(guarded(name, lambda: _parsed(name, parser, main), mark))


def check_profile(profile: Path) -> None:
    """Raises UserError where a profile cannot be written."""
    try:
        profile.open("ab").close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--profile {profile}: cannot be written ({reason})") from None


def _parsed(
    name: str, parser: argparse.ArgumentParser, main: Callable[[argparse.Namespace], int]
) -> int:
    arguments = parser.parse_args()
    return _profiled(name, lambda: main(arguments), arguments.profile)


def _profiled(name: str, main: Callable[[], int], profile: Path | None) -> int:
    if profile is None:
        return main()
    import cProfile

    check_profile(profile)
    # From Python 3.12 on, cProfile sees the return of a bound pybind11 method, but not its call,
    # and then drops the row of the Python function that called it, `predict` for example.
    profiler = cProfile.Profile(builtins=sys.version_info < (3, 12))
    try:
        return profiler.runcall(main)
    finally:
        try:
            profiler.dump_stats(profile)
            print(f"{name}: profile written to {profile}", file=sys.stderr)
        except OSError as error:
            print(f"{name}: {profile}: cannot be written ({error.strerror})", file=sys.stderr)


def _set_title(title: str) -> None:
    # Keep the environment readable for `ps e`.
    os.environ.setdefault("SPT_NOENV", "1")
    import setproctitle

    setproctitle.setproctitle(title)


def _exit_with_thread(args: threading.ExceptHookArgs) -> None:
    # A process without its worker thread looks alive and does nothing: end it.
    threading.__excepthook__(args)
    os._exit(EXIT_FAULT)
