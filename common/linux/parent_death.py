"""Tie the life of a process to the life of its parent."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


def die_with_parent(signum: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the thread that started it ends.

    SIGKILL ends it even while it is stopped or stuck; another one lets it end in order.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
