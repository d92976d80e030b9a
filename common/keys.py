"""Keys for the network: who may connect to an endpoint, and what they connect with.

Endpoints beyond loopback speak CURVE, ZeroMQ's encryption (Curve25519; CurveZMQ, ZeroMQ RFC 26):
the server has a secret key, every client one of its own, and the server a folder with the
public keys of those it lets in. Key files are pyzmq's: `NAME.key`, public, and
`NAME.key_secret`.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq

from common.errors import EXIT_OK, UserError

PUBLIC_SUFFIX, SECRET_SUFFIX = ".key", ".key_secret"
NAME = r"[A-Za-z0-9_.-]{1,64}"
KEY_BYTES = 40
"""A key as text, in Z85 (ZeroMQ RFC 32)."""
ZAP = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
PER_TURN = 100
REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
"""An unknown key; none, or a wrong idea of ours; a client that saw that first and hung up."""


@dataclasses.dataclass(frozen=True)
class KeyPair:
    """Both keys of one side, as Z85 text."""

    public: bytes
    secret: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Lock:
    """What a server's endpoint is locked with.

    Attributes:
        secret: file with the server's own keys.
        allowed: folder with the public keys of those who may connect.
    """

    secret: Path
    allowed: Path

    @classmethod
    def of(cls, table: Mapping[str, str]) -> Lock:
        """From a stage's job."""
        return cls(Path(table["secret"]), Path(table["allowed"]))

    def job(self) -> dict[str, str]:
        """For a stage's job."""
        return {"secret": str(self.secret), "allowed": str(self.allowed)}

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
class Ticket:
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


def add_ticket(parser: argparse.ArgumentParser) -> None:
    """The flags of a program that may subscribe to a locked endpoint."""
    parser.add_argument(
        "--secret", type=Path, metavar="FILE", help="own .key_secret file, where keys are wanted"
    )
    parser.add_argument("--server", type=Path, metavar="FILE", help="the box's .key file")


def ticket_of(options: argparse.Namespace) -> Ticket | None:
    """What these flags give.

    Raises:
        UserError: one of them without the other.
    """
    if (options.secret is None) != (options.server is None):
        raise UserError("--secret and --server belong together")
    return Ticket(options.secret, options.server) if options.secret else None


# Files ----------------------------------------------------------------------------------


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


# Where nobody may connect without ---------------------------------------------------------


def on_loopback(endpoint: str) -> bool:
    """Whether only this machine can connect to an endpoint: ipc, and TCP on loopback."""
    if not endpoint.startswith("tcp://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "lo")


def check_exposure(endpoint: str, name: str, *, locked: bool, unprotected: bool) -> None:
    """Raises UserError where anybody on the network could connect and nobody said that twice."""
    if locked or unprotected or on_loopback(endpoint):
        return
    raise UserError(
        f"{name} endpoint {endpoint} is open to the whole network; give it keys (curve.secret and "
        "curve.allowed, see docs/SECURITY.md), or say a second time that everybody may listen "
        "(curve.unprotected)"
    )


# At the door ----------------------------------------------------------------------------


class Doorman:
    """Lets holders of allowed keys in at the locked endpoints of one context; counts the others.

    ZeroMQ asks it by ZAP (RFC 27) about every key. A folder of keys is read anew when it has
    changed: a key that is added counts at once, one that is removed no longer for connections to
    come. Call `turn()` from the thread that owns the sockets, several times a second, or
    whenever one of `sockets` has something.

    Attributes:
        refused: how many handshakes have failed.
    """

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.refused = 0
        self._folders: dict[str, Path] = {}
        self._known: dict[str, tuple[int, dict[bytes, str]]] = {}
        self._monitors: list[zmq.Socket[bytes]] = []
        self._zap: zmq.Socket[bytes] = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(ZAP)

    def guard(self, socket: zmq.Socket[bytes], lock: Lock, domain: str) -> None:
        """Lock the next bind of a socket.

        Raises:
            UserError: a key is missing or malformed.
        """
        lock.check()
        lock.apply(socket, domain)
        self._folders[domain] = lock.allowed
        monitor = socket.get_monitor_socket(REFUSED)
        monitor.setsockopt(zmq.LINGER, 0)
        self._monitors.append(monitor)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll, to answer at once."""
        return [self._zap, *self._monitors]

    def turn(self) -> None:
        """Answer who asks, count who was turned away."""
        for _ in range(PER_TURN):
            try:
                frames = self._zap.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            self._zap.send_multipart(self._answer(frames))
        for monitor in self._monitors:
            for _ in range(PER_TURN):
                try:
                    monitor.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                self.refused += 1

    def close(self) -> None:
        for socket in self.sockets:
            socket.close()

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
            # A file half copied, or the folder gone: what was known goes on to count.
            pass
        return self._known.get(domain, (0, {}))[1].get(z85.encode(key))


def count_refused(doorman: Doorman | None, counters: Counter[str]) -> None:
    """Enter what a doorman has counted."""
    if doorman is not None and doorman.refused:
        counters["connections_refused"] += doorman.refused
        doorman.refused = 0


# supervisor.py keygen -------------------------------------------------------------------


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


def main(words: list[str]) -> int:
    """`supervisor.py keygen`; an exit code.

    Raises:
        UserError: the name is malformed, or a file exists.
    """
    from common.stage import Parser

    flags = Parser(
        prog="python supervisor.py keygen",
        description="Makes a pair of keys, for a box or for a program that connects to one.",
    )
    flags.add_argument("name", help="of the box or the client; 1 to 64 of A-Z a-z 0-9 _ . -")
    flags.add_argument("--folder", type=Path, default=Path(), help="default: where you are")
    arguments = flags.parse_args(words)
    if not re.fullmatch(NAME, arguments.name):
        raise UserError(f"name {arguments.name!r} must be 1 to 64 of A-Z, a-z, 0-9, _, . and -")
    public, secret = make_keys(arguments.folder, arguments.name)
    print(f"{secret}  stays here; nobody else may read it")
    print(f"{public}  goes to the other side: a client's into the box's folder curve.allowed,")
    print(f"{' ' * len(str(public))}  a box's to its clients")
    return EXIT_OK
