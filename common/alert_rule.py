"""A rule of `[[alerts]]` as the alerts process gets it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from speech_emotion.common.privacy.quiet_hours import QuietHours

Dimension = Literal["level", "arousal", "valence", "dominance"]
LEVEL = "level"
"""The dimension in dBFS that every stream has; the others are 0 to 1, where the bundle has them."""
Watch = Literal["utterances", "windows"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlertRule:
    """When an alert is raised, and where it is sent.

    Attributes:
        name: its name.
        to: the addresses (`common.alert_address`); they hold passwords.
        threshold: least probability of `label`, or least value of `dimension`.
        release: a value below it ends the episode; at most `threshold`. For windows only.
        stream: name of the stream; None: each stream for itself.
        label: an emotion; None: `dimension` counts.
        dimension: `level`, in dBFS, or a dimension of the bundle; None: `label` counts.
        watch: `utterances`: each one when it has ended; `windows`: while it lasts.
        length_s: least length in seconds of the utterance or the episode.
        cool_down_s: least time in seconds between two alerts of one stream.
        quiet_hours: when it raises no alert.
    """

    name: str
    to: tuple[str, ...] = dataclasses.field(repr=False)
    threshold: float
    release: float
    stream: str | None = None
    label: str | None = None
    dimension: str | None = None
    watch: str = "utterances"
    length_s: float = 0.0
    cool_down_s: float = 0.0
    quiet_hours: tuple[QuietHours, ...] = ()

    @property
    def condition(self) -> str:
        """The condition in words."""
        if self.label is not None:
            value = f"{self.label} at least {self.threshold:.0%}"
        else:
            unit = " dBFS" if self.dimension == LEVEL else ""
            value = f"{self.dimension} at least {self.threshold:g}{unit}"
        length = f", {self.length_s:g} s long" if self.length_s else ""
        where = f" in {self.stream}" if self.stream is not None else ""
        return f"{self.watch}{where}: {value}{length}"
