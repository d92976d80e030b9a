"""What a source can be, as `health` says it.

    STARTING ----> LIVE <--> SILENT_INPUT, STUCK     it delivers, but nothing that is sound
       |            |             |
       +------------+-------------+---> LOST         it delivers nothing, or something else's sound
                                         |
    LIVE <---- RECOVERING <--------------+           a fresh process tries; again and again
                    \\---> FAILED                     nobody tries any more
    any ---> ENDED                                   the end of a file, or wanted

`capture.sources.monitor` moves a source through its states. What a process that is gone cannot say,
`common.hub.health` says for it: RECOVERING while it is restarted, FAILED where it was given up.
"""

from __future__ import annotations

import dataclasses
import enum
import time


class SourceState(enum.Enum):
    """State of a source; the value is a stream's `state` in `health`."""

    STARTING = "starting"
    LIVE = "live"
    SILENT_INPUT = "silent_input"
    STUCK = "stuck"
    LOST = "lost"
    RECOVERING = "recovering"
    FAILED = "failed"
    ENDED = "ended"


@dataclasses.dataclass(frozen=True)
class Condition:
    """How a source is.

    Attributes:
        reason: what is wrong, in words.
        since: CLOCK_MONOTONIC when the state began.
        device: what is heard, where that is a device.
        clipped: share of samples at full scale, of about the last second.
    """

    state: SourceState
    reason: str | None = None
    since: float = dataclasses.field(default_factory=time.monotonic)
    device: str | None = None
    clipped: float = 0.0
