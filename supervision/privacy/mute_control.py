"""Decides whether the pipeline is muted: by hand, by quiet hours, by the switch, by the light."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.config.privacy import MuteConfig
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, UserError
from speech_emotion.common.privacy.hand_mute import (
    Clocks,
    HandMute,
    default_state_file,
    load_hand_mute,
    save_hand_mute,
)
from speech_emotion.common.privacy.mute_register import MuteRegister, switch_engaged
from speech_emotion.common.privacy.quiet_hours import quiet_until
from speech_emotion.common.wire.control_messages import MuteSet, SetMute
from speech_emotion.common.wire.public import Mute

log = logging.getLogger("mute")

LEAST_S, LONGEST_S = 1.0, 366 * 86400.0
"""Shortest and longest mute with an end, in seconds."""
OBEY_S = 5.0
"""Longest time in seconds that an answer waits for capture to report that it is muted."""


class MuteControl:
    """Use from the supervisor's loop only; any thread may read `mute`.

    Args:
        config: quiet hours, switch, file of the mute by hand.
        register: read by capture before it copies a sample.
        changed: called with the new `mute` when its causes or its end change.
        clocks: gives the clocks at the present moment.

    Attributes:
        mute: why no sound is taken; None where sound is taken.

    Raises:
        UserError: no file can keep a mute by hand.
    """

    def __init__(
        self,
        config: MuteConfig,
        register: MuteRegister,
        changed: Callable[[Mute | None], None] = lambda _: None,
        clocks: Callable[[], Clocks] = Clocks.now,
    ) -> None:
        self.mute: Mute | None = None
        self._config = config
        self._register = register
        self._changed = changed
        self._clocks = clocks
        self._file: Path = config.state or default_state_file()
        self._zone, self._periods = config.zone, config.periods
        self._hand = self._load()
        self._fault: str | None = None
        self._light: str | None = None
        self._waiting: list[tuple[Callable[[MuteSet], None], float]] = []

    def turn(self, now: float, *, taken: bool, light: str | None = None) -> None:
        """Decide anew, and answer the requests that capture has obeyed.

        Args:
            now: CLOCK_MONOTONIC.
            taken: whether capture still takes sound.
            light: why the light cannot be switched on; None where it can.
        """
        self._light = light
        mute = self._decide(self._clocks())
        self._register.set(muted=mute is not None)
        if not _same(mute, self.mute):
            self.mute = mute
            log.info("%s", mute.text if mute else "sound is taken")
            self._changed(mute)
        self._answer(now, taken=taken)

    def use(self, config: MuteConfig) -> None:
        """Use other quiet hours from the next turn on; switch and file stay."""
        self._zone, self._periods = config.zone, config.periods

    def request(self, request: SetMute, now: float, answer: Callable[[MuteSet], None]) -> None:
        """Mute or unmute by hand.

        Args:
            now: CLOCK_MONOTONIC.
            answer: called once, when capture has obeyed or within `OBEY_S` seconds.
        """
        seconds = request.seconds
        if seconds is not None and not LEAST_S <= seconds <= LONGEST_S:
            answer(MuteSet(EXIT_FAULT, f"a mute of {seconds:g} s is not possible"))
            return
        log.info("%s by %s", "muted" if request.muted else "unmuted", request.by)
        self._hand = HandMute.starting(self._clocks(), seconds) if request.muted else None
        lasting = self._keep()
        self.turn(now, taken=True, light=self._light)
        if not request.muted:
            still = self.mute is not None
            text = f"still muted: {self.mute.text}" if self.mute else "unmuted: sound is taken"
            answer(MuteSet(EXIT_FAULT if still else EXIT_OK, text + lasting))
            return
        text = (self.mute.text if self.mute else "muted") + lasting

        def obeyed(outcome: MuteSet) -> None:
            answer(dataclasses.replace(outcome, text=outcome.text or f"{text}; no sound is taken"))

        self._waiting.append((obeyed, now + OBEY_S))

    def _answer(self, now: float, *, taken: bool) -> None:
        waiting, self._waiting = self._waiting, []
        for answer, deadline in waiting:
            if not taken:
                answer(MuteSet(EXIT_OK, ""))
            elif now > deadline:
                answer(MuteSet(EXIT_FAULT, "capture does not report that it takes no sound"))
            else:
                self._waiting.append((answer, deadline))

    def _decide(self, clocks: Clocks) -> Mute | None:
        causes: dict[str, tuple[str, float | None]] = {}
        if self._config.switch is not None:
            engaged, fault = switch_engaged(self._config.switch, self._config.switch_muted)
            self._note(fault)
            if engaged:
                text = (
                    f"by the switch, which cannot be read ({fault})" if fault else "by the switch"
                )
                causes["switch"] = text, None
        if self._hand is not None:
            if self._hand.active(clocks):
                causes["hand"] = "by hand", self._hand.ends(clocks)
            else:
                self._hand = None
                self._keep()
        if self._light is not None:
            causes["light"] = f"because the light cannot be switched on ({self._light})", None
        quiet = quiet_until(self._periods, clocks.unix, self._zone)
        if quiet is not None:
            causes["quiet_hours"] = "by quiet hours", quiet
        if not causes:
            return None
        ends = [end for _, end in causes.values()]
        until = None if None in ends else max(end for end in ends if end is not None)
        words = " and ".join(text + self._until(end) for text, end in causes.values())
        return Mute(list(causes), until, f"muted {words}")

    def _until(self, moment: float | None) -> str:
        if moment is None:
            return ""
        clock = datetime.datetime.fromtimestamp(moment, self._zone)
        today = datetime.datetime.fromtimestamp(time.time(), self._zone).date()
        return (
            f" until {clock:%H:%M}" if clock.date() == today else f" until {clock:%a %d %b %H:%M}"
        )

    def _load(self) -> HandMute | None:
        try:
            return load_hand_mute(self._file)
        except UserError as error:
            log.warning("%s; muted by hand until it is unmuted", error)
            return HandMute()

    def _keep(self) -> str:
        """Keep the mute by hand; a warning for the answer where that fails."""
        try:
            save_hand_mute(self._file, self._hand)
        except OSError as error:
            log.error("%s: cannot be written (%s)", self._file, error.strerror)
            return f" (a restart forgets this: {self._file}: {error.strerror})"
        return ""

    def _note(self, fault: str | None) -> None:
        if fault != self._fault:
            self._fault = fault
            if fault is not None:
                log.warning("the switch cannot be read (%s): muted", fault)


def _same(one: Mute | None, other: Mute | None) -> bool:
    """Whether causes and end are equal; the end by the clock differs by fractions of a second."""
    if one is None or other is None:
        return one is other
    ends = one.until, other.until
    if None in ends:
        return one.by == other.by and ends[0] is ends[1]
    return one.by == other.by and abs((one.until or 0.0) - (other.until or 0.0)) < 2.0
