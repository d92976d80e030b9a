"""CURVE keys (CurveZMQ, ZeroMQ RFC 26): key files, and the keys of a server and of a client.

Key files are those of pyzmq: `NAME.key`, public, and `NAME.key_secret`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.errors import UserError

PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"


NAME = r"[A-Za-z0-9_.-]{1,64}"


KEY_BYTES = 40
"""A key as text, in Z85 (ZeroMQ RFC 32)."""


@dataclasses.dataclass(frozen=True)
class KeyPair:
    """Both keys of one side, as Z85 text."""

    public: bytes
    secret: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class CurveServerKeys:
    """What a server's endpoint is locked with.

    Attributes:
        secret: file with the server's own keys.
        allowed: folder with the public keys of those who may connect.
    """

    secret: Path
    allowed: Path

    def check(self) -> None:
        """Raises UserError where a key is missing, malformed or open to others."""
        read_pair(self.secret)
        if not allowed_keys(self.allowed):
            raise UserError(f"{self.allowed}: holds no {PUBLIC_SUFFIX} file; nobody could connect")

    def apply(self, socket: zmq.Socket[Any], domain: str) -> None:
        """Make the next bind of a socket one for holders of an allowed key."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, read_pair(self.secret).secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)


@dataclasses.dataclass(frozen=True)
class CurveClientKeys:
    """What a client connects to a locked endpoint with.

    Attributes:
        secret: file with the client's own keys.
        server: file with the server's public key, so that nobody can pose as it.
    """

    secret: Path
    server: Path

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Make the next connect of a socket an encrypted one.

        Raises:
            UserError: a key is missing, malformed or open to others.
        """
        pair = read_pair(self.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, read_public(self.server))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)


def add_client_key_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of a program that may subscribe to a locked endpoint."""
    parser.add_argument(
        "--secret", type=Path, metavar="FILE", help="own .key_secret file, where keys are wanted"
    )
    parser.add_argument("--server", type=Path, metavar="FILE", help="the box's .key file")


def client_keys_of(options: argparse.Namespace) -> CurveClientKeys | None:
    """What these flags give.

    Raises:
        UserError: one of them without the other.
    """
    if (options.secret is None) != (options.server is None):
        raise UserError("--secret and --server belong together")
    return CurveClientKeys(options.secret, options.server) if options.secret else None


def read_public(path: Path) -> bytes:
    """The public key in a key file of either kind.

    Raises:
        UserError: there is none.
    """
    return _read(path)[0]


def read_pair(path: Path) -> KeyPair:
    """Both keys in a secret key file.

    Raises:
        UserError: it is missing or holds none, or others may read it.
    """
    public, secret = _read(path)
    if secret is None:
        raise UserError(f"{path}: holds no secret key; that is in the {SECRET_SUFFIX} file")
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path}: others can read this secret; run: chmod 600 {path}")
    return KeyPair(public, secret)


def allowed_keys(folder: Path) -> dict[bytes, str]:
    """The public keys in a folder → their names, which are their files'.

    Raises:
        UserError: there is no such folder, or a file in it holds no key.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; it takes the {PUBLIC_SUFFIX} files of clients")
    return {read_public(path): path.stem for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}"))}


def _read(path: Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate

    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no key in it"
        raise UserError(f"{path}: is not a key file ({why}); `keygen` makes them") from None
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise UserError(f"{path}: its key is malformed; a key has {KEY_BYTES} characters")
    return public, secret


def _is_key(key: bytes) -> bool:
    from zmq.utils import z85

    try:
        return len(key) == KEY_BYTES and z85.encode(z85.decode(key)) == key
    except Exception:  # whatever a decoder dislikes is no key
        return False


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A new pair of key files, the secret one for its owner only: public, secret.

    Raises:
        UserError: one of them exists, or cannot be written.
    """
    from zmq.auth import create_certificates

    paths = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists; a key is not overwritten, remove it first")
    before = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        create_certificates(folder, name)
        paths[0].chmod(0o644)  # it is meant to be handed around
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        os.umask(before)
    return paths
