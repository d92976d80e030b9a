"""`speech-emotion wyoming`: a proxy between Home Assistant and its speech recognizer.

Every byte is forwarded unchanged, in both directions, before it is looked at: a mistake here, or a
pipeline that does not run, changes nothing for the recognizer. The audio chunks of the client are
sent to a `listen:ws://` source of a running pipeline.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import signal
import ssl
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from speech_emotion.capture.sources.network.wyoming import CHANNELS, RATES, WIDTH, EventReader
from speech_emotion.common.config.checks import LISTEN_DEVICES
from speech_emotion.common.connection_error import closed, phrase
from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.common.security.exposure import check_listen, split_listen
from speech_emotion.common.stage.main import LOG_FORMAT, Parser
from speech_emotion.common.wire.endpoint import check_host_name

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

log = logging.getLogger("wyoming")

TOKEN = "SEP_LISTEN__TOKEN"
READ_BYTES = 1 << 16
PIECE_BYTES = 1 << 15
"""Longest message to the pipeline: it takes 256 KiB at most."""
WAITING = 500
"""Chunks that wait for the pipeline; a further one is dropped and counted."""
CONNECT_S = 5.0
AGAIN_S = 1.0
"""Seconds between two attempts to reach the pipeline."""
DESCRIPTION = """\
Forward between Home Assistant and its Wyoming speech recognizer: every byte is passed on
unchanged, and the sound is also sent to a listen:ws:// source of a running pipeline.

  speech-emotion run --source listen:ws://127.0.0.1:8770/assist
  speech-emotion wyoming --listen 0.0.0.0:10301 --recognizer 127.0.0.1:10300 \\
      --to ws://127.0.0.1:8770/assist

Then give Home Assistant the port 10301 in place of 10300. The environment variable
SEP_LISTEN__TOKEN is the token of the source (listen.token), if it has one."""


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Where sound is sent: a `listen:ws://` source.

    Attributes:
        headers: of the request, with the token.
        context: of TLS; None: the usual one.
    """

    url: str
    headers: dict[str, str]
    context: ssl.SSLContext | None


@dataclasses.dataclass(frozen=True)
class Piece:
    """Samples of one audio chunk, or of a part of it; `first` is the number of its first frame."""

    rate: int
    channels: int
    first: int
    content: bytes

    @property
    def frames(self) -> int:
        return len(self.content) // (WIDTH * self.channels)


class SoundSender:
    """Sends the sound of one client to the pipeline. It drops sound rather than make a client wait.

    Attributes:
        sent, dropped: frames that were sent to the pipeline, and that were not.
    """

    def __init__(self, pipeline: Pipeline, name: str) -> None:
        self.sent = self.dropped = 0
        self._pipeline, self._name = pipeline, name
        self._events: EventReader | None = EventReader()
        self._waiting: asyncio.Queue[Piece | None] = asyncio.Queue(WAITING)
        self._first = 0
        self._socket: ClientConnection | None = None
        self._format: tuple[int, int] | None = None
        self._retry = 0.0

    def feed(self, content: bytes) -> None:
        """Take bytes of the client; never raises, never waits."""
        if self._events is None:
            return
        try:
            for event in self._events.feed(content):
                if event.kind == "audio-chunk":
                    self._take(event.data, event.payload)
        except (ValueError, TypeError, KeyError) as error:
            self._events = None
            log.warning(
                "%s: its sound is not analysed any more, only forwarded (%s)", self._name, error
            )

    def finish(self) -> None:
        """No more bytes will come."""
        if self._waiting.full() and (piece := self._waiting.get_nowait()) is not None:
            self.dropped += piece.frames
        self._waiting.put_nowait(None)

    async def run(self) -> None:
        """Send the sound, until `finish`."""
        while (piece := await self._waiting.get()) is not None:
            await self._send(piece)
        await self._close()
        if self.sent or self.dropped:
            log.info(
                "%s: %d frames sent to the pipeline, %d dropped",
                *(self._name, self.sent, self.dropped),
            )

    def _take(self, data: dict[str, object], payload: bytes) -> None:
        rate, width, channels = (int(str(data[key])) for key in ("rate", "width", "channels"))
        if rate not in RATES or width != WIDTH or channels not in CHANNELS:
            raise ValueError("an audio format other than 16-bit samples")
        size = PIECE_BYTES // (WIDTH * channels) * WIDTH * channels
        for start in range(0, len(payload), size):
            piece = Piece(rate, channels, self._first, payload[start : start + size])
            self._first += piece.frames
            if self._waiting.full():
                self.dropped += piece.frames
            else:
                self._waiting.put_nowait(piece)

    async def _send(self, piece: Piece) -> None:
        from websockets.exceptions import ConnectionClosed, WebSocketException

        if self._format != (piece.rate, piece.channels):
            await self._close()
            self._format, self._retry = (piece.rate, piece.channels), 0.0
        try:
            if self._socket is None and asyncio.get_running_loop().time() >= self._retry:
                self._socket = await self._connect(piece)
            if self._socket is not None:
                await self._socket.send(piece.first.to_bytes(8, "little") + piece.content)
                self.sent += piece.frames
                return
        except (OSError, WebSocketException) as error:
            reason = closed() if isinstance(error, ConnectionClosed) else phrase(error)
            log.warning("%s: its sound cannot be sent to the pipeline (%s)", self._name, reason)
            await self._close()
            self._retry = asyncio.get_running_loop().time() + AGAIN_S
        self.dropped += piece.frames

    async def _connect(self, piece: Piece) -> ClientConnection:
        from websockets.asyncio.client import connect

        url = f"{self._pipeline.url}?rate={piece.rate}&channels={piece.channels}&stamps=1"
        return await connect(
            url,
            additional_headers=self._pipeline.headers,
            ssl=self._pipeline.context,
            open_timeout=CONNECT_S,
            compression=None,
        )

    async def _close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
            self._socket = None


class PassThrough:
    """Forwards the connections of clients to a recognizer.

    Args:
        recognizer: HOST:PORT.
    """

    def __init__(self, recognizer: str, pipeline: Pipeline) -> None:
        self._recognizer, self._pipeline = recognizer, pipeline

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until both sides have ended."""
        name = "client {}:{}".format(*writer.get_extra_info("peername")[:2])
        host, port = split_listen(self._recognizer)
        try:
            async with asyncio.timeout(CONNECT_S):
                back, forth = await asyncio.open_connection(host, int(port))
        except OSError as error:  # a TimeoutError is one
            reason = phrase(error, "recognizer")
            log.warning("%s: the recognizer %s is absent (%s)", name, self._recognizer, reason)
            writer.transport.abort()
            return
        sender = SoundSender(self._pipeline, name)
        sending = asyncio.create_task(sender.run())
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, forth, sender))
                both.create_task(_copy(back, writer, None))
        except* OSError as errors:
            log.info("%s: the connection was cut (%s)", name, phrase(errors.exceptions[0], "peer"))
        finally:
            for one in (writer, forth):
                one.close()
            sender.finish()
        await sending


async def _copy(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, sender: SoundSender | None
) -> None:
    while content := await source.read(READ_BYTES):
        sink.write(content)
        if sender is not None:
            sender.feed(content)
        await sink.drain()
    with contextlib.suppress(OSError):  # the other side is gone already
        sink.write_eof()


async def run(listen: str, passing: PassThrough) -> int:
    """Serve until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        UserError: the port is in use, or the host is no address of this machine.
    """
    host, port = split_listen(listen)
    try:
        server = await asyncio.start_server(passing.serve, host, int(port))
    except OSError as error:
        raise UserError(f"--listen {listen}: {error.strerror}") from None
    log.info("ready at %s", listen)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
    return 0


def main(words: list[str]) -> int:
    """Run `speech-emotion wyoming`; returns the exit code.

    Raises:
        UserError: an address is malformed, or the port is in use.
    """
    flags = Parser(
        prog="speech-emotion wyoming",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:10301")
    flags.add_argument("--recognizer", metavar="HOST:PORT", required=True)
    flags.add_argument("--to", metavar="URL", required=True, help="ws://HOST:PORT/NAME, or wss")
    flags.add_argument("--ca", metavar="FILE", help="certificate to trust, for a self-signed one")
    options = flags.parse_args(words)
    check_listen(options.listen)
    check_listen(options.recognizer)
    if not re.fullmatch(LISTEN_DEVICES, f"listen:{options.to}"):
        raise UserError(f"--to {options.to!r} must be ws://HOST:PORT/NAME or wss://HOST:PORT/NAME")
    check_host_name(urlsplit(options.to).hostname or "")
    try:
        import websockets  # noqa: F401
    except ImportError:
        raise UserError(needs_extra("listen")) from None
    context = None
    if options.ca:
        try:
            context = ssl.create_default_context(cafile=options.ca)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"--ca {options.ca}: {error.strerror or error}") from None
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it would quote the token
    pipeline = Pipeline(options.to, headers, context)
    return asyncio.run(run(options.listen, PassThrough(options.recognizer, pipeline)))
