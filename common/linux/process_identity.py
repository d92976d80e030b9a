"""Who a process is, for as long as the machine is up: its pid and when it started.

A pid alone comes back after its process is gone. See proc_pid_stat(5).
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
        pid: process id, as seen from our own pid namespace.
        started: clock ticks from boot to its start.
    """

    pid: int
    started: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        """This very process."""
        identity = cls.of(os.getpid())
        assert identity is not None
        return identity

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The process that has `pid` now; None where there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        # The command's name may hold spaces and brackets; behind the last bracket are
        # the state (field 3) and the rest, the start time being field 22.
        fields = stat[stat.rindex(b")") + 1 :].split()
        return None if fields[0] in b"ZXx" else cls(pid, int(fields[19]))

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """The identity that `str()` wrote; None for any other text."""
        match = _TEXT.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]))

    def alive(self) -> bool:
        """Whether this process still runs; a zombie does not."""
        return self.of(self.pid) == self

    def __str__(self) -> str:
        return f"{self.pid}.{self.started}"


def restrict_file_access() -> None:
    """Whatever this process and its children make is for their owner; no core file holds sound."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@functools.cache
def boot_id() -> str:
    """A UUID of 36 characters, new with every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
