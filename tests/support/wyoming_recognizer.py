"""A Wyoming speech recognizer by the package `wyoming`: wyoming_recognizer.py PORT

Its transcript is the number of bytes of sound and their SHA-256; an event that it does not know it
sends back.
"""

import asyncio
import hashlib
import sys
from typing import Any

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.server import AsyncEventHandler, AsyncServer


class Recognizer(AsyncEventHandler):
    def __init__(self, *streams: Any) -> None:
        super().__init__(*streams)
        self._sound = b""

    async def handle_event(self, event: Event) -> bool:
        if Describe.is_type(event.type):
            await self.write_event(Info().event())
        elif AudioStart.is_type(event.type):
            self._sound = b""
        elif AudioChunk.is_type(event.type):
            self._sound += AudioChunk.from_event(event).audio
        elif AudioStop.is_type(event.type):
            text = f"{len(self._sound)} {hashlib.sha256(self._sound).hexdigest()}"
            await self.write_event(Transcript(text).event())
        elif not Transcribe.is_type(event.type):
            await self.write_event(event)
        return True


async def main(port: str) -> None:
    await AsyncServer.from_uri(f"tcp://127.0.0.1:{port}").run(Recognizer)


asyncio.run(main(*sys.argv[1:]))
