"""The mute that a person has set by command or page, and the file that keeps it over a restart."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import boot_id
from speech_emotion.common.linux.state_folder import state_file


@dataclasses.dataclass(frozen=True)
class Clocks:
    """The clocks at one moment.

    Attributes:
        unix: unix time in seconds; this clock can be set.
        boot: seconds since the machine started, also while it slept; cannot be set.
        boot_id: id of this start of the machine.
    """

    unix: float
    boot: float
    boot_id: str

    @staticmethod
    def now() -> Clocks:
        """The clocks now."""
        return Clocks(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id())


@dataclasses.dataclass(frozen=True)
class HandMute:
    """Muted by hand.

    Attributes:
        until: unix time of its end; None: until it is unmuted.
        boot_until: the same on the clock that is never set, valid for `boot_id` only.
    """

    until: float | None = None
    boot_until: float | None = None
    boot_id: str = ""

    @staticmethod
    def starting(clocks: Clocks, seconds: float | None) -> HandMute:
        """Muted from now on for some seconds; None: without an end."""
        if seconds is None:
            return HandMute()
        return HandMute(clocks.unix + seconds, clocks.boot + seconds, clocks.boot_id)

    def active(self, clocks: Clocks) -> bool:
        """Whether it has not ended yet.

        A clock that is set does not end it early; only after a restart of the machine the clock
        decides.
        """
        if self.until is None:
            return True
        if self.boot_until is not None and self.boot_id == clocks.boot_id:
            return clocks.boot < self.boot_until
        return clocks.unix < self.until

    def ends(self, clocks: Clocks) -> float | None:
        """Unix time of its end as the clock shows it now; None without an end."""
        if self.boot_until is not None and self.boot_id == clocks.boot_id:
            return clocks.unix + self.boot_until - clocks.boot
        return self.until


def load_hand_mute(path: Path) -> HandMute | None:
    """The mute that a file keeps; None: there is none.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    try:
        table = json.loads(path.read_bytes())
        until, boot_until = table["until"], table["boot_until"]
        for value in (until, boot_until):
            if value is not None and type(value) not in (int, float):
                raise TypeError
        return HandMute(until, boot_until, str(table["boot_id"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged") from None


def save_hand_mute(path: Path, mute: HandMute | None) -> None:
    """Keep a mute in a file, whole or not at all; None removes the file.

    Raises:
        OSError: it cannot be written.
    """
    if mute is None:
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            _sync_folder(path.parent)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w") as file:
        json.dump(dataclasses.asdict(mute), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def default_state_file() -> Path:
    """The file in the state folder of the service, else of the user.

    Raises:
        UserError: the user has no home folder.
    """
    return state_file("mute.json", "mute.state")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
