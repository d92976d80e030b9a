"""Tie the life of a process to the life of its parent."""

from __future__ import annotations

import ctypes
import signal

PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends.

    The kernel does so even while this process is stopped or stuck.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
