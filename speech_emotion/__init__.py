"""Real-time speech-emotion service: `speech-emotion run`, and the typed client `Results`.

`Results`, its errors and its messages are the stable interface. They are loaded at their first
use: `import speech_emotion` alone loads nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speech_emotion.common.client.results import (
        Event,
        Freshness,
        NewerProtocolError,
        Results,
        Status,
    )
    from speech_emotion.common.wire.public import Health, Info, Result, Utterance

__version__ = "0.2.0"

_HOMES = {
    **dict.fromkeys(
        ("Event", "Freshness", "NewerProtocolError", "Results", "Status"),
        "speech_emotion.common.client.results",
    ),
    **dict.fromkeys(("Health", "Info", "Result", "Utterance"), "speech_emotion.common.wire.public"),
}
"""Public name → the module that defines it."""

__all__ = [
    "Event",
    "Freshness",
    "Health",
    "Info",
    "NewerProtocolError",
    "Result",
    "Results",
    "Status",
    "Utterance",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
