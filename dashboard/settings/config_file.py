"""The configuration file: read it, replace it whole, and keep its earlier versions."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import stat
import time
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.state_folder import state_file

KEPT = 10
"""Changes that can be undone."""
LONGEST = 1 << 20
"""Longest file in bytes that is changed here."""
CHANGED = "the configuration file has changed meanwhile; nothing was written"


class ChangedMeanwhileError(UserError):
    """The file is not the one that was read."""


class ConfigFile:
    """Use it from one thread at a time.

    Args:
        path: the file; a link is followed.
        versions: folder of the earlier versions; None: in the state folder.
    """

    def __init__(self, path: Path, versions: Path | None = None) -> None:
        self.path = path
        self._versions = versions

    def read(self) -> tuple[str, str]:
        """The text of the file, and its version.

        Raises:
            UserError: it cannot be read.
        """
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise UserError(f"{self.path} is no regular file, so it cannot be changed")
            with self.path.open("rb") as file:
                content = file.read(LONGEST + 1)
            if len(content) > LONGEST:
                raise UserError(f"{self.path} is longer than {LONGEST} bytes")
            return content.decode(), _version(content)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: is no UTF-8 text") from None

    def trouble(self) -> str | None:
        """Why the file cannot be replaced, and what mends it; None: it can be."""
        try:
            real = self.path.resolve(strict=True)
            facts = real.stat()
        except OSError as error:
            return f"{self.path}: cannot be read ({error.strerror})"
        if not stat.S_ISREG(facts.st_mode):
            return f"{self.path} is no regular file, so it cannot be changed"
        if is_mounted(real):
            return f"{real} is mounted by itself: mount its folder in place of it"
        user = _user(os.geteuid())
        mine = os.geteuid() in (0, facts.st_uid)
        chown = f"chown {user} {real.parent} {real}"
        for path in (real, real.parent):
            if not os.access(path, os.W_OK):
                if os.statvfs(path).f_flag & os.ST_RDONLY:
                    return (
                        f"{path} is read-only for this service: add ReadWritePaths={real.parent} "
                        f"with `systemctl edit`, or mount it writable{'' if mine else f'; {chown}'}"
                    )
                return f"the user {user} may not write {path}: {chown}"
        return None if mine else f"{real} belongs to {_user(facts.st_uid)}: {chown}"

    def write(self, text: str, version: str, check: Callable[[Path], None]) -> None:
        """Replace the file, and keep its present version.

        Args:
            version: the version that the text was made from.
            check: called with a file of the new text; raises where it is refused.

        Raises:
            ChangedMeanwhileError: the file has another version now.
            UserError: it cannot be written. In each case the file is as before.
        """
        before, now = self.read()
        if now != version:
            raise ChangedMeanwhileError(CHANGED)
        self._replace(text, version, check, lambda: self._keep(before, _version(text.encode())))

    def undo(self, version: str, check: Callable[[Path], None]) -> None:
        """Restore the version before the newest change.

        Raises:
            ChangedMeanwhileError: the file has another version now.
            UserError: there is no change to undo, or the file cannot be written.
        """
        if self.read()[1] != version:
            raise ChangedMeanwhileError(CHANGED)
        kept = self._newest(version)
        if kept is None:
            raise UserError(
                "there is no change to undo: the newest one was made by another program"
            )
        try:
            text = kept.read_bytes().decode()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"{kept}: cannot be read") from None
        self._replace(text, version, check, lambda: None)
        kept.unlink(missing_ok=True)

    def undoable(self, version: str) -> float | None:
        """Unix time of the change that can be undone; None: there is none."""
        with contextlib.suppress(OSError, UserError):
            kept = self._newest(version)
            return None if kept is None else kept.stat().st_mtime
        return None

    def _replace(
        self, text: str, version: str, check: Callable[[Path], None], keep: Callable[[], None]
    ) -> None:
        if (trouble := self.trouble()) is not None:
            raise UserError(trouble)
        try:
            real = self.path.resolve(strict=True)
            part = real.with_name(f".{real.name}.part")
            part.unlink(missing_ok=True)
            try:
                _write_like(part, text.encode(), real.stat())
                check(part)
                keep()
                if _version(real.read_bytes()) != version:
                    raise ChangedMeanwhileError(CHANGED)
                part.replace(real)
            finally:
                part.unlink(missing_ok=True)
            _sync(real.parent)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _folder(self) -> Path:
        if self._versions is None:
            name = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:12]
            self._versions = state_file(f"settings/{name}", "XDG_STATE_HOME")
        return self._versions

    def _keep(self, text: str, after: str) -> None:
        """Keep a text that is replaced by the version `after`; the oldest are removed."""
        folder = self._folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{time.time_ns()}.{after}.toml"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        for old in self._kept()[:-KEPT]:
            old.unlink(missing_ok=True)

    def _kept(self) -> list[Path]:
        return sorted(self._folder().glob("*.*.toml"))

    def _newest(self, version: str) -> Path | None:
        """What the change to a version has replaced."""
        return next((one for one in reversed(self._kept()) if f".{version}." in one.name), None)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at a path itself, as a container does it with one file."""
    with contextlib.suppress(OSError):
        rows = Path("/proc/self/mountinfo").read_text().splitlines()
        return str(path).replace(" ", r"\040") in {row.split()[4] for row in rows}
    return False


def _write_like(path: Path, content: bytes, facts: os.stat_result) -> None:
    """Write a file with the owner and the mode of another one."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        mine = os.fstat(file.fileno())
        if (mine.st_uid, mine.st_gid) != (facts.st_uid, facts.st_gid):
            os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(facts.st_mode))
        os.fsync(file.fileno())


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
