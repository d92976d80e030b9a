"""What a page of a live pipeline shows."""

from __future__ import annotations

import dataclasses
import time

from speech_emotion.common.wire import public
from tests.support.history import make_result

INFO = public.Info(
    *("main", "a", ["angry", "sad"], 16000, 20 * 16000, 16000, "b@1", "mic", "fixed", -40.0)
)
"""A hop of 20 s: one result is fresh for 60 s, however slowly a browser on a busy machine draws."""


def live(seq: int, **changes: object) -> public.Result:
    return dataclasses.replace(make_result(seq), time=time.time(), **changes)  # type: ignore[arg-type]
