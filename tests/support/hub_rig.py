"""A hub and a stage that talks to it."""

from __future__ import annotations

from collections.abc import Callable

from speech_emotion.common.hub.health import observe
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.hub.observed import Snapshot
from speech_emotion.common.wire import codec, internal, public
from speech_emotion.common.wire.sockets import connect
from tests.support.pipelines import PATIENCE_MS, fresh_endpoint
from tests.support.sockets import KeepingContext


class Rig:
    """A hub and a stage that talks to it."""

    def __init__(self, health: Callable[[Snapshot], public.Health] = observe) -> None:
        self.results, self.stages = fresh_endpoint(), fresh_endpoint()
        self.hub = Hub(
            self.results,
            self.stages,
            info=lambda o: public.Info(
                o.stream, o.run, ["a"], o.window, o.hop, o.rate, "b", o.source
            ),
            health=health,
        )
        self.hub.start()
        self.context = KeepingContext()
        self.stage = connect(self.context, self.stages, "hub")

    def send(self, message: codec.Message) -> None:
        self.stage.send(internal.encode(message))

    def answer(self) -> codec.Message:
        assert self.stage.poll(PATIENCE_MS)
        return internal.decode(self.stage.recv())

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.hub.stop()
