#!/usr/bin/env python3
"""Send sound to a `listen:ws://` source: a file, or 16-bit samples on standard input.

It needs the package `websockets`. It connects again whenever the connection is lost; frames that
could not be sent are a gap in the stream.

  push_audio.py ws://box:8770/kitchen talk.wav
  arecord -t raw -f S16_LE -r 16000 | push_audio.py ws://box:8770/kitchen - --rate 16000
  TOKEN=… push_audio.py wss://box:8770/kitchen talk.wav
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import sys
import time
import wave
from collections.abc import Iterator

try:
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.sync.client import connect
except ModuleNotFoundError as error:
    print(f"push_audio: {error.name} is missing; pip install websockets", file=sys.stderr)
    sys.exit(2)

PACKET_S = 0.02
AGAIN_S = 1.0
UNHEARD_MS = 2500
"""Longest time in ms without an answer of the network: TCP alone would wait for minutes."""


def packets(path: str, rate: int, channels: int) -> tuple[int, int, Iterator[bytes]]:
    """Rate, channels, and the packets of 20 ms in real time."""
    if path == "-":
        size = round(PACKET_S * rate) * 2 * channels
        return rate, channels, iter(lambda: sys.stdin.buffer.read(size), b"")
    file = wave.open(path)  # noqa: SIM115
    if file.getsampwidth() != 2:
        sys.exit(f"{path}: is not a WAV file with 16-bit samples")
    return file.getframerate(), file.getnchannels(), _paced(file)


def _paced(file: wave.Wave_read) -> Iterator[bytes]:
    frames, due = round(PACKET_S * file.getframerate()), time.monotonic()
    while content := file.readframes(frames):
        due += PACKET_S
        time.sleep(max(0.0, due - time.monotonic()))
        yield content


def main() -> int:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    flags.add_argument("url", help="ws://HOST:PORT/NAME or wss://HOST:PORT/NAME")
    flags.add_argument("sound", help="WAV file with 16-bit samples, or - for standard input")
    flags.add_argument("--rate", type=int, default=16000, help="of standard input, in Hz")
    flags.add_argument("--channels", type=int, default=1, help="of standard input")
    flags.add_argument("--ca", metavar="FILE", help="certificate to trust, for a self-signed one")
    options = flags.parse_args()
    rate, channels, sound = packets(options.sound, options.rate, options.channels)
    token = os.environ.get("TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cafile=options.ca) if options.ca else None
    address = f"{options.url}?rate={rate}&channels={channels}&stamps=1"
    frame, connection, retry = 0, None, 0.0
    for content in sound:
        try:
            if connection is None and time.monotonic() >= retry:
                connection = connect(
                    address, additional_headers=headers, ssl=context, open_timeout=2.5
                )
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    where = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                    connection.socket.setsockopt(*where, UNHEARD_MS)
                print(f"push_audio: connected to {options.url}", file=sys.stderr)
            if connection is not None:
                connection.send(frame.to_bytes(8, "little") + content)
        except InvalidStatus as error:
            if error.response.status_code in (400, 401, 404):
                sys.exit(f"push_audio: refused: {error.response.body.decode().strip()}")
            connection, retry = None, time.monotonic() + AGAIN_S
        except (OSError, WebSocketException) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"push_audio: not connected ({reason}); trying again", file=sys.stderr)
            connection, retry = None, time.monotonic() + AGAIN_S
        frame += len(content) // (2 * channels)
    if connection is not None:
        connection.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
