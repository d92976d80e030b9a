"""Be run soon when woken, on a machine that others keep busy.

Linux gives every thread a slice, 3 ms by default, and a thread that is woken mostly waits until
those of the busy ones have passed. A message crosses a dozen threads on its way. Whoever asks
for a short slice gets its turn earlier, and no more of it: the share of the processor is the
same (EEVDF; Linux 6.12 and newer; older ones ignore it). See sched_setattr(2) and the kernel's
Documentation/scheduler/sched-eevdf.rst.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SLICE_NS = 100_000
"""The least that the kernel takes; what wakes here mostly runs for less."""
_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}
"""Numbers of sched_setattr and sched_getattr."""


def request_short_time_slices() -> bool:
    """For this thread, and for the threads and processes that it starts from now on.

    Returns whether the kernel knows such a call; it may still ignore the slice.
    """
    numbers = _calls()
    if numbers is None:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTR.pack(_ATTR.size, os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0)
    return bool(_syscall(numbers[0], 0, attributes, 0) == 0)


def slice_ns(pid: int) -> int | None:
    """The slice that a process has asked for; 0: the default; None where nobody can tell."""
    numbers = _calls()
    found = ctypes.create_string_buffer(_ATTR.size)
    if numbers is None or _syscall(numbers[1], pid, found, _ATTR.size, 0) != 0:
        return None
    return int(_ATTR.unpack(found.raw)[5])


def _calls() -> tuple[int, int] | None:
    return _CALLS.get(platform.machine()) if sys.maxsize > 2**32 else None


def _syscall(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


ONE_BLAS_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"
)
"""Environment to set before numpy is imported: more threads cost CPU and punctuality."""
