"""Gives a Pipecat voice agent a line of context for each utterance: how the voice sounded.

    python examples/pipecat_perception.py     # prints the context that an agent would get

In your agent, put it before the aggregator of the user:

    Pipeline([transport.input(), stt, EmotionContext(), aggregators.user(), llm, ...])

An `uncertain` utterance adds nothing: the agent must not guess.
"""

import argparse
import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator

try:
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        LLMMessagesAppendFrame,
        StartFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.aggregators.llm_context import LLMContext
    from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
    from pipecat.workers.runner import WorkerRunner

    from speech_emotion import Results, Utterance
except ModuleNotFoundError as error:
    print(
        f"pipecat_perception: {error.name} is missing; pip install pipecat-ai ./deploy/client",
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


class EmotionContext(FrameProcessor):
    """Appends a line to the context of the language model for each utterance; all frames pass.

    The line does not make the agent speak: the words of the user do.
    """

    def __init__(self, endpoint: str = "tcp://127.0.0.1:5555", stream: str | None = None) -> None:
        super().__init__()
        self._endpoint, self._stream = endpoint, stream
        self._following: asyncio.Task | None = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, EndFrame | CancelFrame):
            await self._stop()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._following = self.create_task(self._follow())

    async def cleanup(self) -> None:
        await self._stop()
        await super().cleanup()

    async def _stop(self) -> None:
        if self._following is not None:
            await self.cancel_task(self._following)
            self._following = None

    async def _follow(self) -> None:
        async with contextlib.aclosing(lines(self._endpoint, self._stream)) as following:
            async for line in following:
                message = {"role": "system", "content": line}
                await self.push_frame(LLMMessagesAppendFrame(messages=[message]))


async def show(endpoint: str, stream: str | None) -> None:
    """Run the processor in a pipeline without an agent, and print the context that grows."""
    context = LLMContext()
    pipeline = Pipeline(
        [EmotionContext(endpoint, stream), LLMContextAggregatorPair(context).user()]
    )
    worker = PipelineWorker(pipeline, cancel_on_idle_timeout=False)
    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    shown = 0
    while not running.done():
        await asyncio.wait([running], timeout=0.1)
        messages = context.get_messages()
        for message in messages[shown:]:
            print(f"{message['role']}: {message['content']}", flush=True)
        shown = len(messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="default: %(default)s")
    parser.add_argument("--stream", help="name of one stream; default: all")
    options = parser.parse_args()
    asyncio.run(show(options.endpoint, options.stream))


if __name__ == "__main__":
    main()
