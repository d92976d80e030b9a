"""Devices that push 16-bit samples or Opus over WebSocket: a server with one thread per device.

The format of a connection is in docs/SOURCES.md. The capture loop only takes chunks from queues, so
a device that hangs blocks its own thread alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import http
import logging
import socket
import ssl
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from speech_emotion.capture.sources.network.connection import Chunk, End
from speech_emotion.capture.sources.network.datagrams import decode
from speech_emotion.capture.sources.network.listening import ListenAddress
from speech_emotion.capture.sources.network.opus import CHANNELS as OPUS_CHANNELS
from speech_emotion.capture.sources.network.opus import RATES as OPUS_RATES
from speech_emotion.capture.sources.network.opus import OpusDecoder, load_opus
from speech_emotion.common.connection_error import phrase
from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.common.paths import MICROPHONE_PAGE
from speech_emotion.common.security.exposure import listen_tcp
from speech_emotion.common.stage.jobs import ListenOptions
from speech_emotion.common.wire.endpoint import is_loopback

if TYPE_CHECKING:
    from websockets.http11 import Request, Response
    from websockets.sync.server import Server, ServerConnection

log = logging.getLogger("capture")

RATES = range(8000, 192_001)
CHANNELS = range(1, 9)
LARGEST = 1 << 18
"""Longest message in bytes."""
QUEUE_S = 10.0
"""Seconds of sound that wait for the capture loop; beyond it the device has to wait."""
QUIET_S = 1.0
"""Seconds of silence after which another device may take the place of a connected one."""
MAX_DEVICES = 64
TAKEN = "another device sends to this stream"
TRY_AGAIN_LATER = 1013
"""Code of a WebSocket that is closed after the handshake."""
STAMP_BYTES = 8
NATIVE = "<i2" if sys.byteorder == "little" else ">i2"


@dataclasses.dataclass(frozen=True)
class Format:
    """What a device sends, by the query of its request.

    Attributes:
        rate: sample rate in Hz.
        stamped: whether each message begins with the number of its first frame.
        opus: whether each message is an Opus packet; else 16-bit samples.
    """

    rate: int
    channels: int
    stamped: bool
    opus: bool

    @classmethod
    def of(cls, query: dict[str, list[str]]) -> Format:
        """The format of a query; raises ValueError, with what is wrong."""
        try:
            rate, channels, stamps = (
                int(query.get(key, [default])[0])
                for key, default in (("rate", "16000"), ("channels", "1"), ("stamps", "0"))
            )
        except ValueError:
            rate = channels = stamps = 0
        if rate not in RATES or channels not in CHANNELS:
            raise ValueError("needs rate=8000 to 192000 and channels=1 to 8")
        codec = query.get("codec", ["s16"])[0]
        if codec not in ("s16", "opus"):
            raise ValueError("needs codec=s16 or codec=opus")
        if codec == "opus":
            if rate not in OPUS_RATES or channels not in OPUS_CHANNELS:
                rates = ", ".join(map(str, OPUS_RATES))
                raise ValueError(f"codec=opus needs a rate of {rates} and channels=1 or 2")
            try:
                load_opus()
            except UserError as error:
                raise ValueError(str(error)) from None
        return cls(rate, channels, bool(stamps), codec == "opus")


class Device:
    """A connected device.

    Attributes:
        rate: sample rate in Hz.
        ended: why it is gone; None while it is connected.
        heard: CLOCK_MONOTONIC of its newest message, or of its connection.
    """

    def __init__(self, connection: ServerConnection, form: Format) -> None:
        self.rate = form.rate
        self.ended: str | None = None
        self.heard = time.monotonic()
        self._connection = connection
        self._format = form
        self._opus = OpusDecoder(form.rate, form.channels) if form.opus else None
        self._chunks: deque[Chunk] = deque()
        # Each is written by one thread only: `+=` of two threads would lose counts.
        self._received = self._taken = 0

    def run(self) -> None:
        """Receive until the connection ends; in the thread of the connection."""
        from websockets.exceptions import ConnectionClosed

        try:
            while self.ended is None:
                message = self._connection.recv()
                now = self.heard = time.monotonic()
                if isinstance(message, str):
                    continue
                index = None
                if self._format.stamped:
                    index = int.from_bytes(message[:STAMP_BYTES], "little", signed=True)
                    message = message[STAMP_BYTES:]
                order = "<i2"
                if self._opus is not None:
                    message, order = self._opus.decode(message), NATIVE
                samples = decode(message, self._format.channels, order)
                if samples is None:
                    continue
                while self.ended is None and self._received - self._taken > QUEUE_S * self.rate:
                    time.sleep(0.05)
                self._received += len(samples)
                self._chunks.append(Chunk(samples, now, index))
        except ValueError as error:
            self.close(str(error))
        except ConnectionClosed:
            self.ended = self.ended or "the device closed the connection"
        except OSError as error:
            self.ended = self.ended or phrase(error, "device")
        finally:
            if self._opus is not None:
                self._opus.close()

    def take(self, frames: float) -> list[Chunk]:
        """Its next chunks, about so many frames at most."""
        taken: list[Chunk] = []
        while self._chunks and frames > 0:
            chunk = self._chunks.popleft()
            self._taken += len(chunk.samples)
            frames -= len(chunk.samples)
            taken.append(chunk)
        return taken

    def close(self, reason: str) -> None:
        """Cut the connection without waiting for the device."""
        self.ended = self.ended or reason
        with contextlib.suppress(OSError):
            # Not its own `shutdown`: that of TLS would wait for the device.
            socket.socket.shutdown(self._connection.socket, socket.SHUT_RDWR)


class Listener:
    """A WebSocket server for the streams of one port.

    Args:
        names: paths under which devices connect.

    Raises:
        UserError: the port is in use, or the certificate cannot be read.
    """

    def __init__(self, address: ListenAddress, names: list[str], options: ListenOptions) -> None:
        try:
            from websockets.sync.server import serve
        except ImportError:
            raise UserError(f"listen:ws:// {needs_extra('listen')}") from None
        self._devices: dict[str, Device | None] = dict.fromkeys(names)
        self._new: dict[str, Device] = {}
        self._lock = threading.Lock()
        self._token = options.token
        self._count = 0
        where = f"[{address.host}]" if ":" in address.host else address.host
        self._socket = listen_tcp(f"{where}:{address.port}")
        try:
            secure = _tls(options) if address.scheme == "wss" else None
        except UserError:
            self._socket.close()
            raise
        self._server: Server = serve(
            self._serve,
            sock=self._socket,
            ssl=secure,
            process_request=self._check,
            max_size=LARGEST,
            compression=None,
            server_header=None,
            logger=_quiet_logger(),
        )
        threading.Thread(target=self._server.serve_forever, name="listener", daemon=True).start()

    def claim(self, name: str) -> Device | None:
        """The device that has connected under a name and was not claimed before."""
        with self._lock:
            return self._new.pop(name, None)

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        self._socket.close()
        for device in self._devices.values():
            if device is not None:
                device.close("stopped")

    def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request that must not become a connection; None: go on."""
        target = urlsplit(request.path)
        name = target.path.strip("/")
        if "upgrade" not in request.headers.get("Connection", "").lower():
            return _page(connection) if name in self._devices else _refuse(connection, 404)
        query = parse_qs(target.query)
        if not self._admits(request, query):
            return _refuse(connection, 401, "the token is missing or wrong")
        if name not in self._devices:
            return _refuse(connection, 404, "no stream has this name")
        try:
            Format.of(query)
        except ValueError as error:
            return _refuse(connection, 400, str(error))
        with self._lock:
            if self._taken(name):
                return _refuse(connection, 409, TAKEN)
            if self._count >= MAX_DEVICES:
                return _refuse(connection, 503)
        return None

    def _taken(self, name: str) -> bool:
        """Whether a device sends to a stream; one that is quiet has to give way. Needs the lock."""
        device = self._devices[name]
        if device is None or device.ended is not None:
            return False
        if time.monotonic() - device.heard < QUIET_S:
            return True
        device.close("another device has connected")
        return False

    def _admits(self, request: Request, query: dict[str, list[str]]) -> bool:
        if self._token is None:
            # Any page in a browser of this machine could connect: only our own may.
            origin = request.headers.get("Origin")
            host = urlsplit(origin).hostname if origin else None
            return origin is None or (host is not None and is_loopback(host))
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        sent = sent or next(iter(query.get("token", [])), "")
        return hmac.compare_digest(sent.encode(), self._token.encode())

    def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        target = urlsplit(connection.request.path)
        name = target.path.strip("/")
        with self._lock:
            taken = self._taken(name)  # of two that connect at once, both were admitted
            if not taken:
                device = Device(connection, Format.of(parse_qs(target.query)))
                self._count += 1
                self._devices[name] = self._new[name] = device
        if taken:
            connection.close(TRY_AGAIN_LATER, TAKEN)
            return
        try:
            device.run()
        finally:
            with self._lock:
                self._count -= 1


class WebSocketConnection:
    """The next device that connects under a name, until it is gone."""

    def __init__(self, listener: Listener, name: str, url: str) -> None:
        self.rate: int | None = None
        self.end: End | None = None
        self.doing = f"no device is connected to {url}"
        self._listener = listener
        self._name = name
        self._device: Device | None = None

    def read(self, now: float, seconds: float) -> list[Chunk]:  # noqa: ARG002
        """The chunks that have arrived, about `seconds` of sound at most."""
        if self._device is None:
            self._device = self._listener.claim(self._name)
            if self._device is None:
                return []
            self.rate = self._device.rate
            self.doing = "a device is connected"
        ended = self._device.ended
        chunks = self._device.take(seconds * self._device.rate)
        if not chunks and ended is not None:
            self.end = End(ended)
        return chunks

    def close(self) -> None:
        """Cut the connection of the device; it may connect again."""
        if self._device is not None:
            self._device.close("it gave no sound")


def _refuse(connection: ServerConnection, status: int, text: str = "") -> Response:
    return connection.respond(
        http.HTTPStatus(status), f"{text or http.HTTPStatus(status).phrase}\n"
    )


def _page(connection: ServerConnection) -> Response:
    response = connection.respond(http.HTTPStatus.OK, MICROPHONE_PAGE.read_text())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; "
        "connect-src 'self'; worker-src blob:"
    )
    return response


def _tls(options: ListenOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate, key = options.certificate, options.private_key
    if certificate is None or key is None:
        raise UserError("listen:wss:// needs listen.certificate and listen.private_key")
    try:
        context.load_cert_chain(Path(certificate), Path(key))
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise UserError(f"certificate {certificate} with key {key}: {reason}") from None
    return context


def _quiet_logger() -> logging.Logger:
    """A logger for the library: its messages quote requests, and thus tokens."""
    logger = logging.getLogger("speech_emotion.listen")
    logger.setLevel(logging.CRITICAL)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger
