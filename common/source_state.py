"""The states of a source, as `health` reports them.

    STARTING ----> LIVE <--> SILENT_INPUT, STUCK, CANCELLED   samples arrive, but hold no sound
       |            |             |
       +------------+-------------+---> LOST         no samples arrive, or another device's
                                         |
    LIVE <---- RECOVERING <--------------+           a restarted process opens the source again
                    \\---> FAILED                     no further restart follows
    any ---> ENDED                                   end of the file, or stopped by request
    any <--> MUTED                                   no sound is taken, by request

`capture.sources.monitor` moves a source through its states. For a capture process that has
ended, `common.hub.health` reports RECOVERING while it restarts and FAILED after the last restart.
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
    CANCELLED = "cancelled"
    """The channels cancel each other in the mix."""
    LOST = "lost"
    RECOVERING = "recovering"
    FAILED = "failed"
    ENDED = "ended"
    MUTED = "muted"


@dataclasses.dataclass(frozen=True)
class Condition:
    """State of a source with its cause.

    Attributes:
        reason: cause of a state that is a fault, as a phrase.
        since: CLOCK_MONOTONIC when the state began.
        device: name of the audio device, if the source is one.
        clipped: share of samples at full scale, over about the last second.
    """

    state: SourceState
    reason: str | None = None
    since: float = dataclasses.field(default_factory=time.monotonic)
    device: str | None = None
    clipped: float = 0.0
