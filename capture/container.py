"""What the header of a sound file says about its length, and how a wrong length is corrected.

libsndfile reports a file that was broken off as a shorter file, and one whose header was never
completed (RIFF size 0) as empty. This module compares the header with the size of the file.
"""

from __future__ import annotations

import dataclasses
import io
import struct

STREAMED_RIFF = 0x7FFF0000
"""RIFF sizes from here on are placeholders of programs that write into a pipe."""
OGG_PAGE = 27
OGG_TAIL = 1 << 17
"""Bytes at the end of an Ogg file that hold its last page: a page has at most 65,307 bytes."""
OGG_END_OF_STREAM = 0x04


@dataclasses.dataclass(frozen=True)
class Container:
    """The length of a sound file by its header.

    Attributes:
        broken: what is missing, in words; None for a complete file.
        patch: bytes that make the header readable, by offset in the file.
    """

    broken: str | None = None
    patch: tuple[tuple[int, bytes], ...] = ()


def examine(file: io.FileIO, size: int) -> Container:
    """Compare the header of a seekable file of `size` bytes with its size.

    A container of an unknown kind is taken as complete.
    """
    file.seek(0)
    magic = file.read(16)
    try:
        if magic[:4] in (b"RIFF", b"RIFX", b"RF64") and magic[8:12] == b"WAVE":
            return _riff(file, size, magic)
        if magic[:4] == b"FORM":
            return _broken_by(_chunk_end(file, size, b"SSND", ">"), size)
        if magic[:4] == b".snd":
            start, length = struct.unpack(">II", magic[4:12])
            return _broken_by(None if length == 0xFFFFFFFF else start + length, size)
        if magic[:4] == b"caff":
            return _caf(file, size)
        if magic[:4] == b"riff":
            return _w64(file, size)
        if magic[:4] == b"OggS":
            return _ogg(file, size)
    except struct.error:
        pass  # too short for its own header: libsndfile refuses it
    return Container()


def _broken_by(end: int | None, size: int) -> Container:
    if end is None or end <= size:
        return Container()
    return Container(f"{end - size} bytes are missing")


def _riff(file: io.FileIO, size: int, magic: bytes) -> Container:
    order = ">" if magic[:4] == b"RIFX" else "<"
    start, length, frame = 0, None, 1
    for name, at, chunk in _chunks(file, size, order):
        if name == b"fmt ":
            file.seek(at + 12)
            frame = max(1, struct.unpack(order + "H", file.read(2))[0])
        elif name == b"ds64":
            file.seek(at + 8)
            length = int(struct.unpack("<Q", file.read(8))[0])
        elif name == b"data":
            start = at
            length = chunk if length is None or chunk != 0xFFFFFFFF else length
            break
    if not start or length is None:
        return Container()
    available = size - start
    if length >= STREAMED_RIFF and length > available:
        return Container()  # libsndfile reads up to the end of the file
    if length == 0 and available >= frame and not _are_chunks(file, start, size, order):
        # The writer did not complete the header. Both sizes are needed.
        length = available // frame * frame
        riff = struct.pack(order + "I", min(size - 8, 0xFFFFFFFE))
        data = struct.pack(order + "I", min(length, 0xFFFFFFFE))
        return Container(patch=((4, riff), (start - 4, data)))
    missing = start + length - size
    return Container(f"{missing} bytes are missing") if missing >= frame else Container()


def _chunks(file: io.FileIO, size: int, order: str) -> list[tuple[bytes, int, int]]:
    """Name, offset of the content and size of each chunk of a RIFF or AIFF file."""
    chunks: list[tuple[bytes, int, int]] = []
    at = 12
    while at + 8 <= size and len(chunks) < 1000:
        file.seek(at)
        name, length = struct.unpack(order + "4sI", file.read(8))
        chunks.append((name, at + 8, length))
        at += 8 + length + length % 2
    return chunks


def _are_chunks(file: io.FileIO, at: int, size: int, order: str) -> bool:
    """Whether the bytes from `at` to the end of the file are chunks, not samples."""
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(order + "4sI", file.read(8))
        if not all(32 <= letter < 127 for letter in name):
            return False
        at += 8 + length + length % 2
    return at in (size, size + 1)


def _chunk_end(file: io.FileIO, size: int, wanted: bytes, order: str) -> int | None:
    for name, at, length in _chunks(file, size, order):
        if name == wanted:
            return at + length
    return None


def _caf(file: io.FileIO, size: int) -> Container:
    at = 8
    for _ in range(1000):
        if at + 12 > size:
            break
        file.seek(at)
        name, length = struct.unpack(">4sq", file.read(12))
        if name == b"data":
            if length < 0 or at + 12 + length <= size:
                break
            available = size - at - 12
            patch = ((at + 4, struct.pack(">q", available)),)
            return Container(f"{length - available} bytes are missing", patch)
        at += 12 + max(0, length)
    return Container()


def _w64(file: io.FileIO, size: int) -> Container:
    at = 40
    for _ in range(1000):
        if at + 24 > size:
            break
        file.seek(at)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name[:4] == b"data":
            return _broken_by(at + length, size)
        at += max(24, (length + 7) // 8 * 8)
    return Container()


def _ogg(file: io.FileIO, size: int) -> Container:
    start = max(0, size - OGG_TAIL)
    file.seek(start)
    tail = file.read(OGG_TAIL)
    page = tail.rfind(b"OggS")
    if page < 0 or page + OGG_PAGE > len(tail):
        return Container("its last page is incomplete")
    segments = tail[page + OGG_PAGE : page + OGG_PAGE + tail[page + 26]]
    end = page + OGG_PAGE + tail[page + 26] + sum(segments)
    if end > len(tail):
        return Container("its last page is incomplete")
    if not tail[page + 5] & OGG_END_OF_STREAM:
        return Container("its last page is missing")
    return Container()


class PatchedFile:
    """A binary file of which some bytes are replaced while they are read."""

    def __init__(self, file: io.FileIO, patch: tuple[tuple[int, bytes], ...]) -> None:
        self._file = file
        self._patch = patch

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        start = self._file.tell()
        content = bytearray(self._file.read(size) or b"")
        end = start + len(content)
        for at, replacement in self._patch:
            first, last = max(start, at), min(end, at + len(replacement))
            if first < last:
                content[first - start : last - start] = replacement[first - at : last - at]
        return bytes(content)

    def close(self) -> None:
        self._file.close()
