"""Labels that people give on the page: one JSON object per line, appended and never changed."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.review_messages import KeptUtterance

TAIL = 1 << 16
"""Bytes at the end of the file in which its last line is looked for."""


def append_label(path: Path, one: KeptUtterance, label: str) -> None:
    """Append the label of an utterance, with the outputs that it had and without its sound.

    The line is on the disk when this returns, so that the sound can be deleted. A second label of
    the same utterance is a second line; readers use the last.

    Raises:
        UserError: the file cannot be written.
    """
    line = {
        "stream": one.stream,
        "run": one.run,
        "seq": one.seq,
        "time": one.time,
        "emotion": one.emotion,
        "confidence": one.confidence,
        "probabilities": one.probabilities,
        "bundle": one.bundle,
        "label": label,
    }
    content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = _separator(descriptor) + content
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{path}: labels cannot be written ({error.strerror})") from None


def _separator(descriptor: int) -> bytes:
    """What a new line must begin with. A line that a crash has cut off was never answered: it is
    removed, because training refuses a file with such a line.
    """
    size = os.fstat(descriptor).st_size
    last = os.pread(descriptor, TAIL, max(0, size - TAIL)).rpartition(b"\n")[2]
    try:
        if last:
            json.loads(last)
            return b"\n"
    except ValueError:
        os.ftruncate(descriptor, size - len(last))
    return b""


class LabelCounts:
    """Label → number of utterances with it, read again when the file changes.

    Args:
        path: the file; it may not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: tuple[int, int] | None = None
        self._counts: dict[str, int] = {}

    def read(self) -> dict[str, int]:
        """The present numbers; empty where the file cannot be read."""
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_size)
            if version != self._version:
                self._counts = _count(self._path.read_bytes())
                self._version = version
        except OSError:
            self._version, self._counts = None, {}
        return self._counts


def _count(content: bytes) -> dict[str, int]:
    found: dict[object, str] = {}
    for number, line in enumerate(content.splitlines()):
        try:
            table = json.loads(line)
        except ValueError:
            continue
        if isinstance(table, dict) and "label" in table:
            names = tuple(str(table.get(name)) for name in ("stream", "run", "seq"))
            # A line that names no utterance has a clip in its place.
            found[number if "None" in names else names] = str(table["label"])
    return dict(sorted(Counter(found.values()).items()))
