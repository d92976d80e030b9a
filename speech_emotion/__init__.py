"""Real-time speech-emotion service: `speech-emotion run`, and its Python interface.

`Results` with its errors and messages is the client of a running pipeline; `Pipeline` analyses
recordings in this process. Each name is loaded at its first use: `import speech_emotion` alone
loads nothing else, and the client neither numpy nor a model.
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
    from speech_emotion.common.errors import UserError
    from speech_emotion.common.wire.public import Health, Info, Result, Utterance
    from speech_emotion.infer.offline.pipeline import Pipeline, Stream

__version__ = "0.2.0"

_HOMES = {
    **dict.fromkeys(
        ("Event", "Freshness", "NewerProtocolError", "Results", "Status"),
        "speech_emotion.common.client.results",
    ),
    **dict.fromkeys(("Health", "Info", "Result", "Utterance"), "speech_emotion.common.wire.public"),
    "UserError": "speech_emotion.common.errors",
    **dict.fromkeys(("Pipeline", "Stream"), "speech_emotion.infer.offline.pipeline"),
}
"""Public name → the module that defines it."""

__all__ = [
    "Event",
    "Freshness",
    "Health",
    "Info",
    "NewerProtocolError",
    "Pipeline",
    "Result",
    "Results",
    "Status",
    "Stream",
    "UserError",
    "Utterance",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("speech_emotion."):
            raise
        # The distribution speech-emotion-client has the client only.
        raise ImportError(f"{name} needs the package speech-emotion-pipeline") from None
