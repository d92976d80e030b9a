"""Memory of a process."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """Largest resident memory of this process so far in MiB.

    Not `ru_maxrss`: that of a child counts the memory of the process that started it.
    """
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) / 1024
