"""The folder of a batch: one part per input, written under a key of its content.

FOLDER/_archive.json            format and bundle of the parts
FOLDER/xx/NAME-KEY.parquet      the results of one input; NAME and KEY are hashes of its name and of
                                its content with the bundle; `.error.parquet` where it has an error

A part appears complete or not at all, whenever a process is killed. The name of what is being
written begins with a dot; readers of Parquet folders skip such names, and those with an underscore.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self

from speech_emotion.capture.recording.reader import SEGMENT, TIMELINE
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity

INDEX = "_archive.json"
FORMAT = 1
ERROR = ".error"
PARTS_SUFFIX = ".parts"
UNREAD = "unread"
"""KEY of an input whose content could not be read; it is tried again by the next run."""
TEMPORARY = ".writing"
MAGIC = b"PAR1"
NAME_HEX, KEY_HEX = 16, 32


class OutputError(Exception):
    """The output cannot be written. The text says why."""


def open_folder(folder: Path, about: dict[str, str | int | None], *, resume: bool) -> None:
    """Create the folder of a batch, or continue in it; remove what killed runs began.

    Args:
        about: what its parts have in common.

    Raises:
        UserError: it holds something else, or results that this run is not to continue.
    """
    index = folder / INDEX
    wanted = {"format": FORMAT, **about}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Another shard may begin at the same moment: look what is there before the index.
        others = [path for path in folder.iterdir() if not path.name.startswith((".", INDEX))]
        if not index.exists():
            if others:
                raise UserError(
                    f"{folder}: is not empty and no folder of results; name another --out"
                )
            with Draft(folder, INDEX) as draft:
                draft.file.write(json.dumps(wanted).encode() + b"\n")
                draft.publish(INDEX, sync=True)
        found = json.loads(index.read_text())
        for key, value in wanted.items():
            if found.get(key) != value:
                raise UserError(
                    f"{folder}: holds results of {key} {found.get(key)}, not {value}; "
                    "name another --out"
                )
        if not resume and any(folder.glob("??/*.parquet")):
            raise UserError(f"{folder}: holds results; --resume continues, or name another --out")
    except (OSError, OutputError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{folder}: cannot be written ({reason})") from None
    except (ValueError, AttributeError):
        raise UserError(f"{index}: is damaged; name another --out") from None
    remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that ended processes of this machine have begun."""
    for path in (*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"??/.*{TEMPORARY}")):
        *_, host, pid, started, _ = path.name.rsplit(".", 4)
        owner = ProcessIdentity.parse(f"{pid}.{started}")
        if host == _host() and (owner is None or not owner.alive()):
            path.unlink(missing_ok=True)


def existing_parts(folder: Path) -> dict[str, list[str]]:
    """Paths of all parts, relative to the folder, by the hash of the input's name."""
    found: dict[str, list[str]] = {}
    for inner in folder.glob("??"):
        with os.scandir(inner) as entries:
            for entry in entries:
                if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                    stem = entry.name.partition("-")[0]
                    found.setdefault(stem, []).append(f"{inner.name}/{entry.name}")
    return found


def name_hash(name: str) -> str:
    """Hash of an input's name."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:NAME_HEX]


def part_path(name: str, key: str, *, error: bool) -> PurePosixPath:
    """Path of a part, relative to the folder."""
    stem = name_hash(name)
    return PurePosixPath(stem[:2], f"{stem}-{key}{ERROR if error else ''}.parquet")


def is_complete(part: Path) -> bool:
    """Whether a file begins and ends as Parquet does."""
    try:
        with part.open("rb") as file:
            begin = file.read(len(MAGIC))
            file.seek(-len(MAGIC), os.SEEK_END)
            return begin == file.read() == MAGIC
    except OSError:
        return False


def content_key(name: str, salt: str) -> str:
    """Hash of a file's content, or of a recording's sound and gaps.

    Args:
        salt: what else decides the results: bundle, channel, version of the table.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256(salt.encode())
    if os.path.isdir(name):
        inside = (n for n in os.listdir(name) if n == TIMELINE or SEGMENT.fullmatch(n))
        for inner in sorted(inside):
            with open(os.path.join(name, inner), "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{inner} {content}\n".encode())
    else:
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:KEY_HEX]


class Draft:
    """A file that appears under its name complete, or not at all.

    Use it as a context manager; without `publish` nothing remains.

    Args:
        folder: where it will appear; it is created.
        name: what it is, for the name of the unfinished file.

    Attributes:
        path: where it is until then.
        file: open for writing.

    Raises:
        OutputError: it cannot be written, here and in `publish`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f".{name}.{_host()}.{ProcessIdentity.current()}{TEMPORARY}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file: BinaryIO = io.BufferedWriter(_Output(self.path, "wb"))
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None

    def publish(self, name: str, *, sync: bool = False) -> None:
        """Close the file and give it its name in the same folder.

        Args:
            sync: wait until the content is on the disk. It takes longer than the analysis of a
                short clip; without, `is_complete` finds what a power failure has cut.
        """
        try:
            self.file.flush()
            if sync:
                os.fsync(self.file.fileno())
            self.file.close()
            self.path.rename(self.path.with_name(name))
        except OSError as error:
            raise OutputError(
                f"{self.path.with_name(name)}: cannot be written ({error.strerror})"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, OutputError):
            self.file.close()
        self.path.unlink(missing_ok=True)


class _Output(io.FileIO):
    """A file whose write errors differ from the read errors of an input."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(f"{self.name}: cannot be written ({error.strerror})") from None


def _host() -> str:
    return socket.gethostname().replace(".", "-") or "localhost"
