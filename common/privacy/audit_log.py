"""The audit log: JSON lines, each with the hash of the line before.

    {"n":2,"time":1795812656.187,"event":"mute","by":"…","prev":"<hash of line 1>","hash":"…"}

`hash` is the SHA-256 of the line without it. A line that is changed, removed or inserted breaks
the chain. Lines removed from the end do not: compare the last hash with one that was kept
elsewhere. The chain goes on in a new file when the old one is full; FILE.1 is the newest of the old
ones.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError

FIRST_PREV = "0" * 64
"""`prev` of the first record."""
HASH_LENGTH = 64
LINE_LIMIT = 1 << 16
"""Longest line in bytes that a reader accepts."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What the next record continues, or what verification found.

    Attributes:
        n: number of the record, from 1.
        hash: its hash.
        table: all of it.
    """

    n: int
    hash: str
    table: Mapping[str, Any]


class BrokenLineError(Exception):
    """A line that is no record of the chain."""


def make_line(n: int, time: float, event: str, details: Mapping[str, Any], prev: str) -> str:
    """A record as a line without its end."""
    table = {"n": n, "time": round(time, 3), "event": event, **details, "prev": prev}
    body = json.dumps(table, ensure_ascii=True, separators=(",", ":"))
    return f'{body[:-1]},"hash":"{_hash(body)}"}}'


def read_line(line: str) -> Record:
    """The record in a line; its place in the chain is not checked.

    Raises:
        BrokenLineError: it is no record, or its hash differs.
    """
    tail = len(',"hash":"') + HASH_LENGTH + len('"}')
    body, mark = line[:-tail] + "}", line[-tail:]
    claimed = mark.removeprefix(',"hash":"').removesuffix('"}')
    if len(claimed) != HASH_LENGTH or claimed != _hash(body):
        raise BrokenLineError("its hash differs: the line was changed")
    try:
        table = json.loads(line)
        if type(table["n"]) is not int or not isinstance(table["prev"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise BrokenLineError("it is no record") from None
    return Record(table["n"], claimed, table)


@dataclasses.dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        records: records before the first broken line, or all.
        first, last: of those records; None without any.
        broken: file, line number and cause of the first broken line; None: the chain is whole.
    """

    records: int
    first: Record | None
    last: Record | None
    broken: str | None


def verify(path: Path) -> Verification:
    """Check every record of a log, the old files first.

    Raises:
        UserError: a file cannot be read, or there is none.
    """
    files = [*reversed(old_files(path)), *([path] if path.exists() else [])]
    if not files:
        raise UserError(f"{path}: this audit log does not exist")
    count, first, last = 0, None, None
    for file in files:
        try:
            for number, line in _lines(file):
                try:
                    record = _linked(line, last)
                except BrokenLineError as error:
                    return Verification(count, first, last, f"{file}:{number}: {error}")
                count, first, last = count + 1, first or record, record
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    return Verification(count, first, last, None)


def _linked(line: str, last: Record | None) -> Record:
    record = read_line(line)
    if last is not None and record.table["prev"] != last.hash:
        raise BrokenLineError("it does not continue the line before: a line is missing or moved")
    if last is not None and record.n != last.n + 1:
        raise BrokenLineError(f"record {record.n} follows record {last.n}")
    if last is None and record.n == 1 and record.table["prev"] != FIRST_PREV:
        raise BrokenLineError("the first record continues another one")
    return record


def old_files(path: Path) -> list[Path]:
    """The full files of a log, the newest first; a rotation that was killed leaves a hole."""
    found = {}
    for one in path.parent.iterdir() if path.parent.is_dir() else ():
        number = one.name.removeprefix(f"{path.name}.")
        if one.name != number and number.isascii() and number.isdigit():
            found[int(number)] = one
    return [found[number] for number in sorted(found)]


class AuditLog(Closing):
    """Appends to a log; each record is on the disk when `append` returns. Not thread-safe.

    Args:
        path: the file; its folder is created.
        max_bytes: size from which a file is full.
        keep: full files that are kept.

    Attributes:
        last: the newest record; None before the first.
        torn: bytes of an incomplete last line that were removed; a power cut leaves one.
        damaged: why the last line is no record; the log then goes on in a new file.

    Raises:
        UserError: another process writes to it, or it cannot be opened.
        OSError: the disk is full or fails.
    """

    _file: int | None = None

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        self.last: Record | None = None
        self.torn = 0
        self.damaged: str | None = None
        self._path, self._max_bytes, self._keep = path, max_bytes, keep
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise UserError(f"audit log {path}: cannot be opened ({error.strerror})") from None
        try:
            self._continue()
        except BaseException:
            self.close()
            raise

    def append(self, time: float, event: str, details: Mapping[str, Any]) -> None:
        """Append a record.

        Args:
            time: unix time in seconds.

        Raises:
            OSError: it cannot be written; nothing was appended.
        """
        n, prev = (1, FIRST_PREV) if self.last is None else (self.last.n + 1, self.last.hash)
        line = make_line(n, time, event, details, prev)
        if self._file is None or os.fstat(self._file).st_size >= self._max_bytes:
            self._rotate()
        assert self._file is not None
        content = line.encode() + b"\n"
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self.last = read_line(line)

    def close(self) -> None:
        """Close the file. The second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise UserError(
                f"audit log {self._path}: another pipeline writes to it; choose another audit.file"
            ) from None
        return file

    def _continue(self) -> None:
        """Find the record to continue, and remove an incomplete line after it."""
        assert self._file is not None
        size = os.fstat(self._file).st_size
        start = max(0, size - 2 * LINE_LIMIT)
        tail = os.pread(self._file, size - start, start)
        whole = tail[: tail.rfind(b"\n") + 1]
        self.torn = len(tail) - len(whole)
        if self.torn:
            os.ftruncate(self._file, size - self.torn)
        lines = whole.splitlines()
        if not lines and (old := old_files(self._path)):
            lines = old[0].read_bytes()[-2 * LINE_LIMIT :].splitlines()
        if lines:
            try:
                self.last = read_line(lines[-1].decode("ascii"))
            except (BrokenLineError, UnicodeDecodeError) as error:
                self.damaged = str(error)
                self._rotate()

    def _rotate(self) -> None:
        """Go on in a new file, and remove the oldest."""
        if self._path.exists():  # else an attempt that failed has renamed it
            for old in reversed(old_files(self._path)):
                number = int(old.suffix[1:])
                if number >= self._keep:
                    old.unlink()
                else:
                    old.rename(old.with_suffix(f".{number + 1}"))
            self._path.rename(self._path.with_name(f"{self._path.name}.1"))
        self.close()
        self._file = self._open()
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line; a text that is none of ours stays one that no hash fits."""
    with file.open("rb") as source:
        number = 0
        while line := source.readline(LINE_LIMIT):
            number += 1
            whole = line.endswith(b"\n")
            yield number, line.removesuffix(b"\n").decode("latin-1") if whole else ""


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
