"""The tables about privacy: mute, light, audit log, notice."""

from __future__ import annotations

import datetime
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from speech_emotion.common.config.table import Table, checked
from speech_emotion.common.config.user_path import UserPath
from speech_emotion.common.privacy.quiet_hours import DAYS, Day, QuietHours, find_zone, parse_clock

LEDS = Path("/sys/class/leds")


class QuietHoursConfig(Table):
    """[[mute.quiet_hours]]"""

    begin: str = Field(..., description="time of the day at which they begin, HH:MM")
    end: str = Field(..., description="time at which they end; not after `begin`: on the next day")
    days: tuple[Day, ...] = Field(
        default=DAYS, min_length=1, description="days on which they begin"
    )

    _clock = field_validator("begin", "end")(lambda value: (checked(parse_clock, value), value)[1])

    @model_validator(mode="after")
    def _not_empty(self) -> QuietHoursConfig:
        if parse_clock(self.begin) == parse_clock(self.end):
            raise ValueError("begin and end must differ; a whole day is two rows")
        return self

    @property
    def period(self) -> QuietHours:
        """The row as a period on the wall clock."""
        days = tuple(DAYS.index(day) for day in self.days)
        return QuietHours(parse_clock(self.begin), parse_clock(self.end), days)


class MuteConfig(Table):
    """[mute]"""

    switch: UserPath | None = Field(
        default=None,
        description="file of a physical switch, such as the value of a GPIO pin; "
        "a switch that cannot be read mutes",
    )
    switch_muted: str = Field(
        default="1", min_length=1, max_length=64, description="content of `switch` that mutes"
    )
    close_device: bool = Field(
        default=True, description="close the microphone while muted; else its sound is discarded"
    )
    state: UserPath | None = Field(
        default=None,
        description="file that keeps a mute by hand over a restart; unset: mute.json in "
        "$STATE_DIRECTORY, else in $XDG_STATE_HOME/speech-emotion",
    )
    time_zone: str | None = Field(
        default=None,
        description="zone of all quiet hours, such as Europe/Berlin; unset: of the machine",
    )
    quiet_hours: tuple[QuietHoursConfig, ...] = Field(
        default=(), max_length=64, description="rows of `[[mute.quiet_hours]]`: begin, end, days"
    )

    _zone = field_validator("time_zone")(
        lambda value: value and checked(lambda name: find_zone(name).key, value)
    )

    @property
    def periods(self) -> tuple[QuietHours, ...]:
        """The quiet hours as periods on the wall clock."""
        return tuple(row.period for row in self.quiet_hours)

    @property
    def zone(self) -> datetime.tzinfo | None:
        """The zone of the quiet hours; None: of the machine."""
        return find_zone(self.time_zone) if self.time_zone is not None else None


class LightConfig(Table):
    """[light]"""

    led: str | None = Field(
        default=None,
        min_length=1,
        description="name of a LED in /sys/class/leds, or its folder; on exactly while sound is "
        "analysed; without light no sound is analysed",
    )
    command: str | None = Field(
        default=None,
        min_length=1,
        description="the same by a command, called with the further argument `on` or `off`",
    )

    @model_validator(mode="after")
    def _one(self) -> LightConfig:
        if self.led is not None and self.command is not None:
            raise ValueError("led and command exclude each other")
        return self


class AuditConfig(Table):
    """[audit]"""

    file: UserPath | None = Field(
        default=None,
        description="audit log (JSON lines): starts, mutes, recordings, keys, log-ins; unset: none",
    )
    max_mb: float = Field(
        default=10.0, ge=0.01, le=1000.0, description="size in MB at which a new file begins"
    )
    keep: int = Field(default=10, ge=1, le=1000, description="full files that are kept")


class ReviewConfig(Table):
    """[review]"""

    file: UserPath | None = Field(
        default=None,
        description="SQLite file for the SOUND of utterances that a person judges on the page; "
        "unset: no review, no sound is kept",
    )
    labels: UserPath | None = Field(
        default=None,
        description="file that receives their labels (JSON lines); unset: `file` with the suffix "
        ".labels.jsonl",
    )
    queue: int = Field(
        default=0,
        ge=0,
        le=200,
        description="number of the most uncertain utterances that are kept without being asked "
        "for; 0: only those for which a person presses Keep",
    )
    hours: float = Field(
        default=24.0, gt=0.0, le=720.0, description="age in hours from which sound is deleted"
    )
    max_mb: float = Field(
        default=50.0, ge=1.0, le=1000.0, description="most sound in MB that is kept at once"
    )
    adapted: UserPath | None = Field(
        default=None,
        description="folder for the bundle that is adapted to the labels, and used in place of "
        "`bundle` then; unset: `file` with the suffix .bundle",
    )

    def labels_file(self, file: Path) -> Path:
        """The file of labels.

        Args:
            file: the file of the review.
        """
        return self.labels or file.with_suffix(".labels.jsonl")

    def adapted_folder(self, file: Path) -> Path:
        """The folder of the adapted bundle.

        Args:
            file: the file of the review.
        """
        return self.adapted or file.with_suffix(".bundle")


class NoticeConfig(Table):
    """[notice]"""

    controller: str | None = Field(
        default=None, max_length=200, description="who runs this, for `speech-emotion notice`"
    )
    contact: str | None = Field(
        default=None, max_length=200, description="where to ask, object, or have data deleted"
    )
    purpose: str | None = Field(default=None, max_length=300, description="what it is used for")
    place: str | None = Field(default=None, max_length=100, description="name of the room")
