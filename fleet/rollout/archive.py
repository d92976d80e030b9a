"""A bundle as one file: a tar archive without compression, the same bytes for the same bundle."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import IO

from speech_emotion.common.bundle.manifest import MANIFEST, Bundle, load_bundle
from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.errors import UserError

MAX_BYTES = 64 << 20
MAX_FILES = 64
FILE_NAME = re.compile(r"[^/\0]{1,100}")


class ArchiveError(Exception):
    """Why an archive is not unpacked."""


def pack(bundle: Bundle) -> bytes:
    """The files of a bundle in one archive, without times and owners.

    Raises:
        UserError: a file cannot be read, or they are larger than `MAX_BYTES`.
    """
    content = io.BytesIO()
    try:
        names = sorted(read_toml(bundle.path / MANIFEST)["files"])
        if len(names) >= MAX_FILES:
            raise UserError(f"{bundle.path}: has more than {MAX_FILES} files")
        with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in (MANIFEST, *names):
                data = (bundle.path / name).read_bytes()
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o600
                tar.addfile(member, io.BytesIO(data))
                if content.tell() > MAX_BYTES:
                    raise UserError(f"{bundle.path}: is larger than {MAX_BYTES >> 20} MiB")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    return content.getvalue()


def unpack(archive: Path, folder: Path, digest: str) -> None:
    """Unpack an archive to a folder that appears with the last file on the disk, or not at all.

    Nothing is taken from the archive but names and contents: each file is made anew in an empty
    folder, so that neither a path nor a link of the archive counts.

    Args:
        folder: must not exist.
        digest: SHA-256 of the manifest in hex.

    Raises:
        ArchiveError: it holds something else than the files of that bundle, or too much.
        OSError: the disk is full, or cannot be written.
    """
    new = folder.with_name("unpacked")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    try:
        with tarfile.open(archive, "r:") as tar:
            _write_members(tar, new)
        bundle = load_bundle(new, folder)
        if bundle.digest != digest:
            raise ArchiveError(f"the archive holds {bundle.id}, another bundle than the order says")
    except (tarfile.TarError, UserError) as error:
        raise ArchiveError(f"the archive is no bundle: {error}") from None
    sync_folder(new)
    new.rename(folder)
    sync_folder(folder.parent)


def _write_members(tar: tarfile.TarFile, folder: Path) -> None:
    left = MAX_BYTES
    for count, member in enumerate(tar):
        left -= member.size
        if member.type != tarfile.REGTYPE or not FILE_NAME.fullmatch(member.name):
            raise ArchiveError(f"the archive holds {member.name[:60]!r}, which is no plain file")
        if left < 0 or count >= MAX_FILES:
            raise ArchiveError("the archive holds more than a bundle may")
        data = tar.extractfile(member)
        assert data is not None  # it is a plain file
        try:
            descriptor = os.open(folder / member.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            name = member.name
            raise ArchiveError(f"{name[:60]!r} cannot be a file: {error.strerror}") from None
        with open(descriptor, "wb") as file, data:
            _copy(data, file)


def _copy(data: IO[bytes], file: IO[bytes]) -> None:
    shutil.copyfileobj(data, file)
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
