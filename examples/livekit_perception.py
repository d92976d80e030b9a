"""Gives a LiveKit voice agent a line of context for each utterance: how the voice sounded.

    python examples/livekit_perception.py     # prints the context that an agent would get

In your agent, use `PerceivingAgent` in place of `Agent`. An `uncertain` utterance adds nothing: the
agent must not guess.
"""

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

try:
    from livekit.agents import Agent, AgentSession

    from speech_emotion import Results, Utterance
except ModuleNotFoundError as error:
    print(
        f"livekit_perception: {error.name} is missing; pip install livekit-agents ./deploy/client",
        file=sys.stderr,
    )
    sys.exit(2)


def line_of(utterance: Utterance) -> str | None:
    """The line for a language model; None where the model could not tell."""
    if utterance.emotion == "uncertain":
        return None
    seconds = (utterance.end - utterance.start) / utterance.rate
    return (
        f"The voice in the last utterance ({seconds:.1f} s) sounded {utterance.emotion}, "
        f"{utterance.confidence:.0%} sure. "
        "This is an estimate from the sound, not from the words."
    )


async def lines(endpoint: str, stream: str | None) -> AsyncIterator[str]:
    """A line for each new utterance that has a label."""
    loop, ready = asyncio.get_running_loop(), asyncio.Queue[str]()
    stop = threading.Event()

    def read() -> None:  # a subscription belongs to one thread
        with Results(endpoint, stream) as results:
            while not stop.is_set():
                event = results.receive(0.25)
                if event is None or event.replay or not isinstance(event.message, Utterance):
                    continue
                if (line := line_of(event.message)) is not None:
                    loop.call_soon_threadsafe(ready.put_nowait, line)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        while True:
            yield await ready.get()
    finally:
        stop.set()
        thread.join()


class PerceivingAgent(Agent):
    """An agent whose context gets a line for each utterance while it is in charge.

    The line does not make the agent speak: the words of the user do.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5555",
        stream: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._endpoint, self._stream = endpoint, stream
        self._following: asyncio.Task[None] | None = None

    async def on_enter(self) -> None:
        self._following = asyncio.create_task(self._follow())

    async def on_exit(self) -> None:
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
            self._following = None

    async def _follow(self) -> None:
        async with contextlib.aclosing(lines(self._endpoint, self._stream)) as following:
            async for line in following:
                context = self.chat_ctx.copy()
                context.add_message(role="system", content=line)
                await self.update_chat_ctx(context)


async def show(endpoint: str, stream: str | None) -> None:
    """Run the agent in a session without a room, and print the context that grows."""
    agent = PerceivingAgent(endpoint, stream, instructions="You are a helpful assistant.")
    async with AgentSession() as session:
        await session.start(agent, record=False)
        shown: set[str] = set()
        while True:
            for item in agent.chat_ctx.items:
                if item.type == "message" and item.id not in shown:
                    shown.add(item.id)
                    print(f"{item.role}: {item.text_content}", flush=True)
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="default: %(default)s")
    parser.add_argument("--stream", help="name of one stream; default: all")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(show(options.endpoint, options.stream))


if __name__ == "__main__":
    main()
