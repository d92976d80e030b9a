"""Tells the capture loop whether it is muted; asked before any sample is copied."""

from __future__ import annotations

import math
from pathlib import Path

from speech_emotion.common.closing import Closing
from speech_emotion.common.privacy.mute_register import MuteRegister, switch_engaged
from speech_emotion.common.stage.jobs import MuteOptions

MARGIN_S = 0.5
"""Time in seconds for which capture stays muted after the end of a mute: blocks that arrive then
may hold sound from before."""


class MuteGate(Closing):
    """Reads the register and the switch.

    Args:
        options: where to read them; None: never muted.
        latency_s: latency of the device in seconds, added to the margin.

    Raises:
        OSError: the register cannot be opened.
    """

    def __init__(self, options: MuteOptions | None, latency_s: float = 0.0) -> None:
        self._register = MuteRegister(options.register) if options is not None else None
        self._switch: Path | None = options.switch if options is not None else None
        self._muted_value = options.switch_muted if options is not None else ""
        self._margin_s = MARGIN_S + latency_s
        self._engaged = -math.inf

    def muted(self, now: float) -> bool:
        """Whether no sample may be copied at `now` (CLOCK_MONOTONIC, seconds)."""
        if self._register is None:
            return False
        if self._register.muted or (
            self._switch is not None and switch_engaged(self._switch, self._muted_value)[0]
        ):
            self._engaged = now
        return now - self._engaged < self._margin_s

    def close(self) -> None:
        """Close the register."""
        if self._register is not None:
            self._register.close()
