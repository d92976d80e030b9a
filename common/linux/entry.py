"""Start and end of a program: Ctrl-C, standard streams, exit code."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable

from speech_emotion.common.errors import (
    EXIT_DEVICE,
    EXIT_FAULT,
    EXIT_OK,
    EXIT_USER,
    DeviceError,
    UserError,
)
from speech_emotion.common.source_address import hide_arguments

ASCII = str.maketrans(
    {
        "●": "*",
        "▲": "!",
        "■": "#",
        "✕": "x",
        "✓": "v",
        "↻": "r",
        "…": "...",
        "·": ".",
        "–": "-",
        "—": "-",
        "−": "-",
        "─": "-",
        "━": "=",
        "╸": "=",
        "╺": "-",
        "°": " deg",
        "→": "->",
        "←": "<-",
        "±": "+-",
        "×": "x",
        "≤": "<=",
        "≥": ">=",
    }
)
"""Characters of our own texts → what a terminal without them shows."""
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a file system or terminal that takes no more output."""
AGAIN_S = 0.01
"""Time after which a Ctrl-C that Python could not raise comes again, seconds."""
ERRORS = "speech_emotion_ascii"
"""Name of the error handler of codecs that writes ASCII in place of other characters."""


def prepare() -> None:
    """Prepare the process of a program. Call it before the other imports.

    - Ctrl-C during the imports ends the program without a traceback. `guarded` and the program's
      own handlers replace this later.
    - Standard streams that are closed are opened on /dev/null. Otherwise a socket or file would
      get the number of a standard stream, and log lines would be written into it.
    - Credentials in the arguments are removed from the process list.
    - stdout and stderr write a character that their encoding does not have as ASCII.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    hide_arguments()
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one: the lower ones are open.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)


def guarded(name: str, main: Callable[[], int], mark: str = "") -> int:
    """Run a program's main function; every expected end is an exit code and at most one line.

    Args:
        name: name of the program, the first word of the line.
        mark: text before the line.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _interrupt_again
    code, reason = EXIT_OK, ""
    try:
        try:
            code = main()
        except SystemExit as end:  # argparse after --help, for example
            code = end.code if isinstance(end.code, int) else EXIT_OK
        sys.stdout.flush()
    except UserError as error:
        code, reason = EXIT_USER, str(error)
    except DeviceError as error:
        code, reason = EXIT_DEVICE, str(error)
    except KeyboardInterrupt:
        code = EXIT_OK
    except BrokenPipeError:
        code = EXIT_OK
        _discard_stdout()
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        code, reason = EXIT_FAULT, f"cannot write the output ({error.strerror})"
        _discard_stdout()
    if reason:
        with contextlib.suppress(OSError):
            print(f"{mark}{name}: {reason}", file=sys.stderr, flush=True)
    return code


def _interrupt_again(args: sys.UnraisableHookArgs) -> None:
    """Raise a Ctrl-C again that came in a callback of a weak reference or in `__del__`.

    Python prints the KeyboardInterrupt there and goes on, so the program would not end.
    """
    if issubclass(args.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(args)


def _discard_stdout() -> None:
    """Send the rest to /dev/null: Python flushes stdout again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _to_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(ASCII)
    # Names of files that are not UTF-8 have surrogates.
    plain = [
        c if c.isascii() else f"\\x{ord(c) & 0xFF:02x}" if "\ud800" <= c <= "\udfff" else "?"
        for c in text
    ]
    return "".join(plain), error.end


codecs.register_error(ERRORS, _to_ascii)
