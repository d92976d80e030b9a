"""What a page of a live pipeline shows."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

from speech_emotion.common.wire import public
from tests.support.history import make_result

INFO = public.Info(
    *("main", "a", ["angry", "sad"], 16000, 20 * 16000, 16000, "b@1", "mic", "fixed", -40.0)
)
"""A hop of 20 s: one result is fresh for 60 s, however slowly a browser on a busy machine draws."""


def live(seq: int, **changes: object) -> public.Result:
    return dataclasses.replace(make_result(seq), time=time.time(), **changes)  # type: ignore[arg-type]


@contextlib.contextmanager
def sending(send: Callable[[], object]) -> Iterator[None]:
    """Send again and again meanwhile: what is old is drawn pale."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.2):
            send()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
