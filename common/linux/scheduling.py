"""Short time slices: run soon after a wake-up on a busy machine.

Linux gives every thread a time slice, 3 ms by default. A thread that wakes up usually waits until
the slices of the running threads have passed, and a message passes through a dozen threads. A
thread with a short slice runs earlier; its share of the processor stays the same (EEVDF scheduler,
Linux 6.12 and newer; older kernels ignore the slice). See sched_setattr(2) and
Documentation/scheduler/sched-eevdf.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE_NS = 100_000
"""Shortest slice that the kernel accepts; most wake-ups here need less."""
_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr."""


def request_short_time_slices() -> bool:
    """Request short slices for this thread and for the threads and processes that it starts.

    Returns:
        Whether the kernel has this system call; it may still ignore the slice.
    """
    numbers = _calls()
    if numbers is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0)
    return bool(_syscall(numbers[0], 0, attributes, 0) == 0)


def slice_ns(pid: int) -> int | None:
    """The slice that a process requested; 0: the default; None: unknown."""
    numbers = _calls()
    attributes = ctypes.create_string_buffer(_ATTR.size)
    if numbers is None or _syscall(numbers[1], pid, attributes, _ATTR.size, 0) != 0:
        return None
    return int(_ATTR.unpack(attributes.raw)[5])


def _calls() -> tuple[int, int] | None:
    return _CALLS.get(platform.machine()) if sys.maxsize > 2**32 else None


def _syscall(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


ONE_BLAS_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)
"""Environment to set before numpy is imported. More threads cost CPU and add delay."""
