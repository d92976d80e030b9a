"""Keys of programs that may read the HTTP interface: a file with their hashes.

A key is random and has 192 bits: its SHA-256 cannot be inverted, and needs no salt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.state_folder import state_file

log = logging.getLogger("keys")

NAME = r"[A-Za-z0-9_.-]{1,64}"
PREFIX = "sep_"
"""Beginning of every key, so that a search for leaked secrets finds it."""
SECRET_BYTES = 24
SCOPE = "read"
"""The only scope: a key can read everything below `/api/` and change nothing."""
MOST = 1000
"""Largest number of keys."""


@dataclasses.dataclass(frozen=True)
class ApiKey:
    """One key, without the key itself.

    Attributes:
        name: whose it is.
        scope: `read`.
        created: unix time in seconds.
        sha256: hash of the key in hexadecimal digits.
    """

    name: str
    scope: str
    created: int
    sha256: str


def default_key_file() -> Path:
    """The file that is used where none is configured."""
    return state_file("api_keys.json", "dashboard.api_keys")


def hash_of(key: str) -> str:
    """The hash that the file keeps."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def load_api_keys(path: Path) -> list[ApiKey]:
    """The keys in a file; none if it does not exist.

    Raises:
        UserError: it cannot be read, is damaged, or other users can read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(1 << 20)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if mode & 0o077:
        raise UserError(f"{path}: others can read these keys; run: chmod 600 {path}")
    try:
        keys = [ApiKey(**row) for row in json.loads(content)["keys"]]
        if not all(_well_formed(key) for key in keys):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: is no file of API keys, or is damaged") from None
    return keys


def _well_formed(key: ApiKey) -> bool:
    return (
        isinstance(key.name, str)
        and re.fullmatch(NAME, key.name) is not None
        and key.scope == SCOPE
        and type(key.created) is int
        and isinstance(key.sha256, str)
        and re.fullmatch("[0-9a-f]{64}", key.sha256) is not None
    )


def add_api_key(path: Path, name: str) -> str:
    """Add a key to a file; the key, which is not kept.

    Raises:
        UserError: the name is malformed or taken, or the file cannot be written.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(f"name {name!r} must be 1 to 64 of A-Z, a-z, 0-9, _, . and -")
    with _locked(path):
        keys = load_api_keys(path)
        if any(key.name == name for key in keys):
            raise UserError(f"{path}: has a key {name!r} already; remove it first")
        if len(keys) >= MOST:
            raise UserError(f"{path}: has {MOST} keys; remove one first")
        key = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        _write(path, [*keys, ApiKey(name, SCOPE, int(time.time()), hash_of(key))])
    return key


def remove_api_key(path: Path, name: str) -> None:
    """Remove a key from a file; it is refused from then on.

    Raises:
        UserError: the file has no such key or cannot be written.
    """
    with _locked(path):
        keys = load_api_keys(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            known = ", ".join(key.name for key in keys) or "none"
            raise UserError(f"{path}: has no key {name!r}; its keys: {known}")
        _write(path, left)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock of the file's folder, so that two commands do not undo one another."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        os.close(folder)


def _write(path: Path, keys: list[ApiKey]) -> None:
    text = json.dumps({"keys": [dataclasses.asdict(key) for key in keys]}, indent=1)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class ApiKeys:
    """The keys in a file, as it is now: it is read again after each change.

    A file that cannot be used has no keys, and its fault is logged once.

    Args:
        path: the file; it may appear later. None: there are no keys.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._keys: list[ApiKey] = []
        self._fault = ""

    def name_of(self, key: str) -> str | None:
        """The name of a key; None: it is not in the file."""
        self._refresh()
        digest = hash_of(key)
        found = [one.name for one in self._keys if hmac.compare_digest(one.sha256, digest)]
        return found[0] if found else None

    def _refresh(self) -> None:
        if self._path is None:
            return
        version: tuple[int, ...] | None = None
        with contextlib.suppress(OSError):
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        if version == self._version:
            return
        self._version, self._keys = version, []
        try:
            self._keys = load_api_keys(self._path)
            self._fault = ""
        except UserError as error:
            if str(error) != self._fault:
                log.error("no API key is accepted: %s", error)
            self._fault = str(error)
