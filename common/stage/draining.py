"""The end of a stage that reads published results: it takes all that was published before it."""

from __future__ import annotations

import time
from collections.abc import Callable

from speech_emotion.common.wire.public import Health

LIMIT_S = 2.5
"""Longest time; `health` is published every second."""
POLL_S = 0.1


def drain(
    newest: Callable[[], Health | None],
    receive: Callable[[float], object],
    limit_s: float = LIMIT_S,
) -> None:
    """Receive until a `health` message arrives that was published after this call.

    A pause without messages does not show the end: on a busy machine the publisher's process may
    not run for longer. The messages of a publisher keep their order.

    Args:
        newest: the newest `health` that was received from a pipeline on this machine.
        receive: takes the next message, and waits for at most the given number of seconds.
        limit_s: longest time in seconds, where the pipeline hangs or has been killed.
    """
    asked, deadline = time.time(), time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if (health := newest()) is not None and health.time > asked:
            return
        receive(POLL_S)
