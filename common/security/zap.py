"""The ZAP authenticator (ZeroMQ RFC 27): accepts clients with allowed keys."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveServerKeys, allowed_keys, key_files
from speech_emotion.common.wire.sockets import drain

log = logging.getLogger("keys")


ZAP = "inproc://zeromq.zap.01"


ZAP_VERSION = b"1.0"


Noted: TypeAlias = Callable[[str, str, str | None, str | None], None]


class ZapAuthenticator:
    """Accepts clients with allowed keys at the locked endpoints of one context.

    libzmq asks it by ZAP for every key that a client shows. A change in the folder of keys counts
    at once for new connections; a damaged file is skipped, and without the folder no key is
    accepted. Call `turn()` from the thread that owns the sockets when `socket` is readable, or
    several times a second.

    Attributes:
        noted: called with endpoint, address, name of the key (None: refused) and key of a client.
    """

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.noted: Noted = lambda *_: None
        self._folders: dict[str, _KeyFolder] = {}
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ZAP)

    def guard(self, socket: zmq.Socket[bytes], lock: CurveServerKeys, domain: str) -> None:
        """Make the next bind of a socket accept only the allowed keys of `lock`.

        Raises:
            UserError: a key is missing or malformed.
        """
        lock.check()
        lock.apply(socket, domain)
        self._folders[domain] = _KeyFolder(lock.allowed)

    def turn(self) -> None:
        """Answer waiting requests."""
        for frames in drain(self.socket):
            self.socket.send_multipart(self._answer(frames))

    def close(self) -> None:
        """Close its socket."""
        self.socket.close()

    def _answer(self, frames: list[bytes]) -> list[bytes]:
        # version, request id, domain, address, routing id, mechanism, credentials
        request, domain, mechanism = frames[1], frames[2].decode("utf-8", "replace"), frames[5]
        key = _z85(frames[6]) if mechanism == b"CURVE" and len(frames) > 6 else None
        name = self._name(domain, key) if key is not None else None
        self.noted(domain, frames[3].decode("utf-8", "replace"), name, key)
        verdict = [b"400", b"no such key", b""] if name is None else [b"200", b"", name.encode()]
        return [ZAP_VERSION, request, *verdict, b""]

    def _name(self, domain: str, key: str) -> str | None:
        folder = self._folders.get(domain)
        return folder.keys().get(key.encode()) if folder is not None else None


def _z85(key: bytes) -> str | None:
    """A public key as text; None where it is no key."""
    from zmq.utils import z85

    return z85.encode(key).decode("ascii") if len(key) == 32 else None


class _KeyFolder:
    """The keys in a folder, read again when a file in it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: list[tuple[object, ...]] | None = None
        self._keys: dict[bytes, str] = {}

    def keys(self) -> dict[bytes, str]:
        """Allowed keys → names of their files; none while the folder cannot be read."""
        try:
            state = [_file_state(path) for path in key_files(self._folder)]
            if state != self._state:
                self._keys, self._state = allowed_keys(self._folder), state
        except (OSError, UserError) as error:
            if self._state is not None or self._keys:
                log.warning("%s; no client can connect", error)
            self._keys, self._state = {}, None
        return self._keys


def _file_state(path: Path) -> tuple[object, ...]:
    """What changes when a file is replaced or written, even with its old time and size."""
    status = path.stat()
    return path.name, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
