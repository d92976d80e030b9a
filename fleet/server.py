"""Connect to a server of NATS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client

from speech_emotion.common.connection_error import closed, phrase
from speech_emotion.common.errors import UserError
from speech_emotion.common.nats_server import NatsServer

# nats-py answers the end of a TLS connection in a way that asyncio warns of.
logging.getLogger("asyncio").setLevel(logging.ERROR)

NO_STORAGE = 10047
"""Error code of the server: the stream would be larger than its store may be."""
CONNECT_S = 3.0
PING_S = 10.0
"""A server that lost power closes nothing: it is given up after two pings without an answer."""

FAULTS = (OSError, TimeoutError, nats.errors.Error, ssl.SSLError)
"""What an attempt to connect, to publish or to ask can raise."""

CLOSED = (
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.StaleConnectionError,
)
NO_GREETING = "empty response from server"
"""Text of nats-py's error where a server closes a connection that it has just accepted."""


def inbox_of(site: str, box: str) -> str:
    """Where a box receives the answers of the centre to its requests, and no other box does."""
    return f"_INBOX_{site}={box}"


async def open_client(
    server: NatsServer, name: str, *, reconnect: bool = False, inbox: str = "_INBOX"
) -> Client:
    """A client that is connected.

    Args:
        name: shown in the server's lists.
        inbox: first part of the subjects at which it receives answers.
        reconnect: connect again by itself; else the client closes when the server is lost.

    Raises:
        UserError: a file cannot be read, or holds no seed.
        FAULTS: the server is not reached, or it refuses the client.
    """
    causes: list[Exception] = []

    async def note(error: Exception) -> None:
        causes.append(error)

    options: dict[str, Any] = {
        "name": name,
        "connect_timeout": CONNECT_S,
        "reconnect_time_wait": 0.2,
        "allow_reconnect": reconnect,
        "max_reconnect_attempts": -1 if reconnect else 1,
        "ping_interval": PING_S,
        "max_outstanding_pings": 2,
        "error_cb": note,
        "inbox_prefix": inbox,
    }
    try:
        if server.seed is not None:
            options["nkeys_seed_str"] = _seed(server.seed)
        if server.credentials is not None:
            options["user_credentials"] = str(server.credentials)
        if server.url.startswith("tls:"):
            options["tls"] = _tls(server)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None
    try:
        return await asyncio.wait_for(nats.connect(server.url, **options), 4 * CONNECT_S)
    except nats.errors.NoServersError:
        raise (
            causes[-1] if causes and isinstance(causes[-1], FAULTS) else OSError("no answer")
        ) from None


def _seed(path: Path) -> str:
    import nkeys

    seed = path.read_bytes().strip()
    try:
        nkeys.from_seed(bytearray(seed))
    except Exception:  # the library raises its own errors and those of base64 and nacl
        raise UserError(f"{path}: holds no seed of an NKey") from None
    return seed.decode()


def _tls(server: NatsServer) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=server.ca)
        if server.certificate is not None:
            context.load_cert_chain(server.certificate, server.private_key)
    except ssl.SSLError as error:
        raise UserError(
            f"{server.ca or server.certificate}: holds no certificate ({error.reason})"
        ) from None
    return context


def cause(error: BaseException) -> str:
    """An error in a few words."""
    if isinstance(error, nats.js.errors.NoStreamResponseError):
        return "no stream takes the messages: set nats.stream_mb, or run `fleet streams`"
    if isinstance(error, nats.js.errors.APIError):
        small = "; set a smaller nats.stream_mb" if error.err_code == NO_STORAGE else ""
        return f"{error.description}{small}"
    if isinstance(error, CLOSED) or NO_GREETING in str(error):
        return closed()
    return phrase(error).removeprefix("nats: ")
