"""The ZAP authenticator (ZeroMQ RFC 27): accepts clients with allowed keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import CurveServerKeys, allowed_keys
from speech_emotion.common.wire.sockets import drain

ZAP = "inproc://zeromq.zap.01"


ZAP_VERSION = b"1.0"


class ZapAuthenticator:
    """Accepts clients with allowed keys at the locked endpoints of one context.

    libzmq asks it by ZAP for every key that a client shows. A folder of keys is read again when
    it has changed: a new key counts at once, a removed one no longer for new connections. Call
    `turn()` from the thread that owns the sockets when `socket` is readable, or several times a
    second.
    """

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._folders: dict[str, Path] = {}
        self._known: dict[str, tuple[int, dict[bytes, str]]] = {}
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
        self._folders[domain] = lock.allowed

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
        name = self._name(domain, frames[6]) if mechanism == b"CURVE" else None
        verdict = [b"400", b"no such key", b""] if name is None else [b"200", b"", name.encode()]
        return [ZAP_VERSION, request, *verdict, b""]

    def _name(self, domain: str, key: bytes) -> str | None:
        from zmq.utils import z85

        folder = self._folders.get(domain)
        if folder is None or len(key) != 32:
            return None
        try:
            changed = folder.stat().st_mtime_ns
            if domain not in self._known or self._known[domain][0] != changed:
                self._known[domain] = (changed, allowed_keys(folder))
        except (OSError, UserError):
            # A file is half copied, or the folder is gone: the keys known so far stay valid.
            pass
        return self._known.get(domain, (0, {}))[1].get(z85.encode(key))
