"""How capture learns that it is muted: a register of one byte, and the switch itself.

The supervisor writes the register before capture starts, and capture reads it before it copies a
sample. Capture also reads the switch, so that a supervisor that hangs cannot delay it. If one of
them cannot be read, that counts as muted.
"""

from __future__ import annotations

import os
from pathlib import Path

from speech_emotion.common.closing import Closing

MUTED, LISTENING = b"1", b"0"
SWITCH_BYTES = 64
"""Longest content of a switch that is compared."""


class MuteRegister(Closing):
    """One byte in a file of the runtime folder.

    Args:
        path: the file; created where `create` is set, and then muted.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL if create else os.O_RDONLY
        self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self._closed = False
        self._written: bool | None = None
        if create:
            self.set(muted=True)

    def set(self, *, muted: bool) -> None:
        """Write the register where it changes."""
        if muted != self._written:
            os.pwrite(self._descriptor, MUTED if muted else LISTENING, 0)
            self._written = muted

    @property
    def muted(self) -> bool:
        """Whether it says that no sound may be taken."""
        return os.pread(self._descriptor, 1, 0) != LISTENING

    def close(self) -> None:
        """Close the file. The second call does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)


def switch_engaged(path: Path, muted_value: str) -> tuple[bool, str | None]:
    """Whether a switch is at `muted_value`, and why it cannot be read.

    A switch that cannot be read counts as engaged.

    Args:
        path: a file, such as the value of a GPIO pin in sysfs.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            content = os.read(descriptor, SWITCH_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        return True, f"{path}: {error.strerror}"
    text = content.decode("utf-8", "replace").strip()
    if not text:
        return True, f"{path}: is empty"
    return text == muted_value, None
