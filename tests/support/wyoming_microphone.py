"""A Wyoming microphone by the package `wyoming`: wyoming_microphone.py ADDRESS:PORT SOUND.wav

It streams the file in real time, again and again, to each client.
"""

import asyncio
import functools
import sys
import wave
from typing import Any

from wyoming.audio import AudioChunk, AudioStart
from wyoming.event import Event
from wyoming.server import AsyncEventHandler, AsyncServer

FRAMES = 320


class Microphone(AsyncEventHandler):
    def __init__(self, path: str, *streams: Any) -> None:
        super().__init__(*streams)
        self._path = path
        self._task = asyncio.create_task(self._play())

    async def _play(self) -> None:
        file = wave.open(self._path)  # noqa: SIM115
        rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
        await self.write_event(AudioStart(rate, width, channels).event())
        clock = asyncio.get_running_loop()
        due = clock.time()
        while True:
            content = file.readframes(FRAMES)
            if not content:
                file.rewind()
                continue
            await self.write_event(AudioChunk(rate, width, channels, content).event())
            due += FRAMES / rate
            await asyncio.sleep(max(0.0, due - clock.time()))

    async def handle_event(self, event: Event) -> bool:  # noqa: ARG002
        return True

    async def disconnect(self) -> None:
        self._task.cancel()


async def main(address: str, path: str) -> None:
    server = AsyncServer.from_uri(f"tcp://{address}")
    await server.run(functools.partial(Microphone, path))


asyncio.run(main(*sys.argv[1:]))
