"""What standard input is: a pipe or a file that samples can come from, or a mistake."""

from __future__ import annotations

import os
import stat
import sys

from speech_emotion.common.errors import UserError

EXAMPLE = "pipe samples to it, such as: arecord -t raw -f S16_LE -r 16000 | …"


def check_standard_input(descriptor: int = 0) -> None:
    """Raise UserError if samples cannot come from standard input.

    Args:
        descriptor: standard input, or a copy of it.
    """
    # A closed descriptor 0 may have been reused by another file of this process.
    if descriptor == 0 and sys.stdin is None:
        raise UserError(f"standard input is closed; {EXAMPLE}")
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        raise UserError(f"standard input is closed; {EXAMPLE}") from None
    if os.isatty(descriptor):
        raise UserError(f"standard input is a terminal; {EXAMPLE}")
    if stat.S_ISDIR(mode):
        raise UserError(f"standard input is a folder; {EXAMPLE}")
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise UserError(f"standard input is closed or a device, such as /dev/null; {EXAMPLE}")
