"""CURVE keys (ZeroMQ RFC 26): key files, the keys of a server and those of a client.

Key files have the format of pyzmq: `NAME.key` (public) and `NAME.key_secret`.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.errors import UserError

log = logging.getLogger("keys")


PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"


MAX_FILE = 64 * 1024
"""Largest size of a key file in bytes."""


NAME = r"[A-Za-z0-9_.-]{1,64}"


KEY_BYTES = 40
"""Length of a key as Z85 text (ZeroMQ RFC 32)."""


@dataclasses.dataclass(frozen=True)
class KeyPair:
    """A public and a secret key, as Z85 text."""

    public: bytes
    secret: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class CurveServerKeys:
    """The keys of a server's endpoint.

    Attributes:
        secret: file with the server's own key pair.
        allowed: folder with the public keys of the clients that may connect.
    """

    secret: Path
    allowed: Path

    def check(self) -> None:
        """Check the files.

        Raises:
            UserError: a key is missing, malformed or readable for other users.
        """
        read_pair(self.secret)
        if not allowed_keys(self.allowed):
            raise UserError(
                f"{self.allowed}: holds no {PUBLIC_SUFFIX} file; no client could connect"
            )

    def apply(self, socket: zmq.Socket[Any], domain: str) -> None:
        """Make the next bind of a socket require a key; `domain` names it to the authenticator."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, read_pair(self.secret).secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)


@dataclasses.dataclass(frozen=True)
class CurveClientKeys:
    """The keys of a client of a locked endpoint.

    Attributes:
        secret: file with the client's own key pair.
        server: file with the server's public key; it proves that the server is the right one.
    """

    secret: Path
    server: Path

    def apply(self, socket: zmq.Socket[Any]) -> None:
        """Make the next connect of a socket encrypted.

        Raises:
            UserError: a key is missing, malformed or readable for other users.
        """
        pair = read_pair(self.secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, read_public(self.server))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)


def add_client_key_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--secret` and `--server`, the flags for the keys of a client."""
    parser.add_argument(
        "--secret",
        type=Path,
        metavar="FILE",
        help="own .key_secret file, for an endpoint with keys",
    )
    parser.add_argument("--server", type=Path, metavar="FILE", help="the box's .key file")


def client_keys_of(options: argparse.Namespace) -> CurveClientKeys | None:
    """The keys that `--secret` and `--server` name; None without them.

    Raises:
        UserError: one flag is given without the other.
    """
    if (options.secret is None) != (options.server is None):
        raise UserError("--secret and --server belong together")
    return CurveClientKeys(options.secret, options.server) if options.secret else None


def read_public(path: Path) -> bytes:
    """The public key in a key file of either kind, as Z85 text.

    Raises:
        UserError: the file is missing or holds no key.
    """
    return _read(path)[0]


def read_pair(path: Path) -> KeyPair:
    """Both keys in a secret key file.

    Raises:
        UserError: the file is missing, holds no secret key, or other users can read it.
    """
    public, secret = _read(path)
    if secret is None:
        raise UserError(f"{path}: holds no secret key; use the {SECRET_SUFFIX} file")
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path}: others can read this secret; run: chmod 600 {path}")
    return KeyPair(public, secret)


def allowed_keys(folder: Path) -> dict[bytes, str]:
    """The public keys in a folder → the names of their files. Damaged files are logged and skipped.

    Raises:
        UserError: the folder is missing.
    """
    keys = {}
    for path in key_files(folder):
        try:
            keys[read_public(path)] = path.stem
        except UserError as error:
            log.warning("%s; this client cannot connect", error)
    return keys


def key_files(folder: Path) -> list[Path]:
    """The public key files in a folder: regular files, or links to such, of a plausible size.

    Raises:
        UserError: the folder is missing.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == PUBLIC_SUFFIX)
        # Anything else, such as a named pipe, would block the reader.
        return [path for path in paths if path.is_file() and path.stat().st_size <= MAX_FILE]
    except OSError:
        raise UserError(
            f"{folder}: no such folder; make it, for the {PUBLIC_SUFFIX} files of clients"
        ) from None


def _read(path: Path) -> tuple[bytes, bytes | None]:
    from zmq.auth import load_certificate

    try:
        public, secret = load_certificate(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no key in it"
        raise UserError(f"{path}: is not a key file ({reason}); `keygen` makes them") from None
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise UserError(f"{path}: its key is malformed; a key has {KEY_BYTES} characters")
    return public, secret


def _is_key(key: bytes) -> bool:
    from zmq.utils import z85

    try:
        return len(key) == KEY_BYTES and z85.encode(z85.decode(key)) == key
    except Exception:  # the decoder raises several types for malformed text
        return False


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a pair of key files; only the owner can read the secret one.

    Returns:
        The paths of the public and the secret file.

    Raises:
        UserError: one of them exists, or cannot be written.
    """
    from zmq.auth import create_certificates

    paths = folder / f"{name}{PUBLIC_SUFFIX}", folder / f"{name}{SECRET_SUFFIX}"
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists; remove it first, keys are not overwritten")
    before = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        create_certificates(folder, name)
        paths[0].chmod(0o644)  # the public key is for others to read
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        os.umask(before)
    return paths
