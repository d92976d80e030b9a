"""Identity of a process until the next boot: its process id and its start time.

The kernel reuses a process id after the process has ended. See proc_pid_stat(5).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import resource
from pathlib import Path

_TEXT = re.compile(r"([0-9]{1,10})\.([0-9]{1,20})")


@dataclasses.dataclass(frozen=True)
class ProcessIdentity:
    """One process of this boot; as text, `pid.started`.

    Attributes:
        pid: process id in our own pid namespace.
        started: start time in clock ticks since boot.
    """

    pid: int
    started: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This process."""
        identity = cls.of(os.getpid())
        assert identity is not None
        return identity

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has `pid` now; None where none runs (a zombie does not run)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        # The command's name may contain spaces and brackets. After the last bracket follow the
        # state (field 3) and the other fields; the start time is field 22.
        fields = stat[stat.rindex(b")") + 1 :].split()
        return None if fields[0] in b"ZXx" else cls(pid, int(fields[19]))

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """The identity from its text; None for any other text."""
        match = _TEXT.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]))

    def alive(self) -> bool:
        """Whether this process still runs; a zombie does not."""
        return self.of(self.pid) == self

    def __str__(self) -> str:
        return f"{self.pid}.{self.started}"


def restrict_file_access() -> None:
    """Make new files readable for their owner only, and write no core file, which can hold sound.

    Child processes inherit both settings.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@functools.cache
def boot_id() -> str:
    """A UUID of 36 characters that changes with every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
