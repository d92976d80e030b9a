"""The tables about alerts: rules, and the file of what is not delivered yet."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from speech_emotion.common.alert_address import ADDRESSES, check_address
from speech_emotion.common.alert_rule import LEVEL, AlertRule, Dimension, Watch
from speech_emotion.common.config.checks import check_stream
from speech_emotion.common.config.privacy import QuietHoursConfig
from speech_emotion.common.config.table import Table, checked
from speech_emotion.common.config.user_path import UserPath

MAX_RULES = 64
MAX_TO = 16
RELEASE, RELEASE_DB = 0.1, 3.0
"""How far `release` is below `threshold` where it is unset: a probability or value, and dB."""


def _listed(value: Any) -> Any:
    """One address is a list of one."""
    return (value,) if isinstance(value, str) else value


class AlertConfig(Table):
    """[[alerts]]"""

    name: str = Field(..., description="name of the rule; 1 to 40 of a-z 0-9 _ -")
    to: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        ..., min_length=1, max_length=MAX_TO, description=f"where it is sent: {ADDRESSES}"
    )
    label: str | None = Field(
        default=None, min_length=1, max_length=100, description="emotion of the bundle"
    )
    dimension: Dimension | None = Field(
        default=None,
        description="in place of `label`: `level`, the loudness in dBFS, or a dimension of the "
        "bundle, 0 to 1",
    )
    threshold: float = Field(
        default=0.6, ge=-100.0, le=1.0, description="least probability of the label, or least value"
    )
    release: float | None = Field(
        default=None,
        ge=-100.0,
        le=1.0,
        description="of windows: a value below it ends the episode, and the next one can raise an "
        "alert again; unset: 0.1 or 3 dB below `threshold`",
    )
    watch: Watch | None = Field(
        default=None,
        description="`utterances`: each one when it has ended; `windows`: while it lasts; unset: "
        "utterances for a label, windows for a dimension",
    )
    stream: str | None = Field(
        default=None, description="name of the stream; unset: each stream for itself"
    )
    length_s: float = Field(
        default=0.0, ge=0.0, le=3600.0, description="least length of utterance or episode in s"
    )
    cool_down_s: float = Field(
        default=300.0, ge=0.0, le=604800.0, description="least time between two alerts of a stream"
    )
    quiet_hours: tuple[QuietHoursConfig, ...] = Field(
        default=(),
        max_length=64,
        description="rows of `[[alerts.quiet_hours]]`: begin, end, days; in them it is silent",
    )

    _name = field_validator("name")(lambda value: checked(_check_name, value))
    _to = field_validator("to")(lambda value: tuple(checked(check_address, one) for one in value))

    @model_validator(mode="after")
    def _complete(self) -> AlertConfig:
        if (self.label is None) == (self.dimension is None):
            raise ValueError("needs either label or dimension")
        if self.dimension is not None and self.watch == "utterances":
            raise ValueError("dimension needs watch = 'windows': utterances have none")
        low, high = (-100.0, 0.0) if self.dimension == LEVEL else (0.0, 1.0)
        if not low <= self.threshold <= high:
            raise ValueError(f"threshold = {self.threshold:g} must be {low:g} to {high:g}")
        if self.release is not None and not low <= self.release <= self.threshold:
            raise ValueError(f"release = {self.release:g} must be {low:g} to threshold")
        if self.release is not None and self.rule.watch == "utterances":
            raise ValueError("release needs watch = 'windows': an utterance has ended")
        return self

    @property
    def rule(self) -> AlertRule:
        """The row as a rule."""
        margin = RELEASE_DB if self.dimension == LEVEL else RELEASE
        usual = "utterances" if self.label is not None else "windows"
        return AlertRule(
            name=self.name,
            to=self.to,
            threshold=self.threshold,
            release=self.threshold - margin if self.release is None else self.release,
            stream=self.stream,
            label=self.label,
            dimension=self.dimension,
            watch=self.watch or usual,
            length_s=self.length_s,
            cool_down_s=self.cool_down_s,
            quiet_hours=tuple(row.period for row in self.quiet_hours),
        )


class OutboxConfig(Table):
    """[outbox]"""

    file: UserPath | None = Field(
        default=None,
        description="SQLite file of the alerts that are not delivered yet; unset: alerts.sqlite in "
        "$STATE_DIRECTORY, else in $XDG_STATE_HOME/speech-emotion",
    )
    give_up_h: float = Field(
        default=24.0, ge=0.1, le=720.0, description="age in hours at which an alert is given up"
    )


def _check_name(name: str) -> str:
    """As the name of a stream."""
    return check_stream(name)
