"""The folder of Parquet files: batches that are written as a whole or not at all, and compaction.

    KIND/day=YYYY-MM-DD/site=SITE/stream=STREAM/part-BATCH-LEVEL.parquet
    state.json    the batches that count, the place in the stream, the numbers that are stored

A batch counts when `state.json` names it. Files of a batch that does not count are left over from a
crash and are removed at the start.
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError
from speech_emotion.fleet.messages import KINDS
from speech_emotion.fleet.store.numbers import Numbers

VERSION = 1
PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
STATE, WORK = "state.json", ".work"
MERGED = 16
"""Files of one level that become one file of the next level."""
RENAME_EXCHANGE, AT_FDCWD = 2, -100


@dataclasses.dataclass
class State:
    """What is stored.

    Attributes:
        created: when the stream was made; another one begins anew.
        sequence: all messages up to this one are stored.
        batch: number of the next batch.
        numbers: which messages are stored, whatever stream brought them.
    """

    created: str = ""
    sequence: int = 0
    batch: int = 0
    numbers: Numbers = dataclasses.field(default_factory=Numbers)


class StoreFolder(Closing):
    """The folder; one process writes it.

    Args:
        path: made if it does not exist.

    Attributes:
        state: what is stored; a reader changes it before `write`.

    Raises:
        UserError: it cannot be used, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.state = _load(path / STATE)
            self._clean()
        except BlockingIOError:
            self.close()
            raise UserError(f"{path}: another `fleet store` writes this folder") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path}: cannot be used as a store ({reason})") from None

    def write(self, tables: Mapping[str, pa.Table]) -> None:
        """Write a batch, with the present state; it is on the disk at the return.

        Args:
            tables: partition → rows.

        Raises:
            OSError: the batch does not count; call again with the same rows or more.
        """
        work = self.path / WORK
        for partition, table in tables.items():
            folder = self.path / partition
            folder.mkdir(parents=True, exist_ok=True)
            name = f"part-{self.state.batch:08d}-0.parquet"
            _write_table(table, work / name)
            os.replace(work / name, folder / name)
        for folder in sorted(_with_parents(self.path, tables)):
            _sync(folder)
        state = self.state
        text = json.dumps(
            {
                "v": VERSION,
                "created": state.created,
                "sequence": state.sequence,
                "batch": state.batch + 1,
                "numbers": state.numbers.to_json(),
            }
        )
        new = work / STATE
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path / STATE)
        _sync(self.path)
        state.batch += 1

    def compact(self, partitions: Iterable[str]) -> None:
        """Merge small files of partitions. A reader sees the files before or after, never both.

        Raises:
            OSError: nothing has changed in that partition.
        """
        for partition in partitions:
            while self._compact_level(self.path / partition):
                pass

    def close(self) -> None:
        """Release the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _compact_level(self, folder: Path) -> bool:
        """Merge the files of one level, if there are enough; whether it was done."""
        levels: dict[int, list[str]] = {}
        for name in sorted(os.listdir(folder)):
            if found := PART.fullmatch(name):
                levels.setdefault(int(found[2]), []).append(name)
        for level, names in sorted(levels.items()):
            if len(names) >= MERGED:
                self._merge(folder, names[:MERGED], level + 1)
                return True
        return False

    def _merge(self, folder: Path, names: list[str], level: int) -> None:
        new = self.path / WORK / "merged"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        tables = [pq.ParquetFile(folder / name).read() for name in names]
        merged = pa.concat_tables(tables).sort_by([("time", "ascending")])
        newest = PART.fullmatch(names[-1])
        assert newest is not None
        _write_table(merged, new / f"part-{newest[1]}-{level}.parquet")
        for name in os.listdir(folder):
            if name not in names:
                os.link(folder / name, new / name)
        _sync(new)
        _exchange(new, folder)
        _sync(folder.parent)
        shutil.rmtree(new)

    def _clean(self) -> None:
        """Remove what a crash has left."""
        shutil.rmtree(self.path / WORK, ignore_errors=True)
        (self.path / WORK).mkdir()
        for kind in KINDS:
            for file in (self.path / kind).glob("day=*/site=*/stream=*/part-*.parquet"):
                found = PART.fullmatch(file.name)
                if found is not None and int(found[1]) >= self.state.batch:
                    file.unlink()


def _load(path: Path) -> State:
    """The state of a folder; a new one where there is none. Raises ValueError for another file."""
    if not path.exists():
        return State()
    table: dict[str, Any] = json.loads(path.read_text())
    if table["v"] != VERSION:
        raise ValueError("it belongs to another version")
    return State(table["created"], table["sequence"], table["batch"], Numbers(table["numbers"]))


def _write_table(table: pa.Table, path: Path) -> None:
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


def _with_parents(root: Path, partitions: Iterable[str]) -> set[Path]:
    """Every folder from the partitions up to the root."""
    folders = {root}
    for partition in partitions:
        folder = root / partition
        while folder != root:
            folders.add(folder)
            folder = folder.parent
    return folders


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(other))
