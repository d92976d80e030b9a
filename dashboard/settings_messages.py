"""What the HTTP interface sends and takes about the settings."""

from __future__ import annotations

import dataclasses
from typing import Any

NOW = (
    *("mute.time_zone", "mute.quiet_hours", "alerts", "history.days"),
    *("review.hours", "review.queue", "review.max_mb"),
)
"""Keys that the pipeline takes while it runs."""
EDITABLE = ("sensitivity", "baseline", "prosody", *NOW)
"""Keys that can be changed."""
CHANGES = {"schema": {"minProperties": 1, "propertyNames": {"enum": [*EDITABLE]}}}
VERSION = {"schema": {"type": "string", "maxLength": 64}}


@dataclasses.dataclass(frozen=True)
class SettingField:
    """A setting that can be changed.

    Attributes:
        key: its key in the configuration, such as `history.days`; of a row `alerts.threshold`.
        description: what it does.
        kind: `choice`, `choices`, `switch`, `number`, `integer`, `text`, `texts` or `rows`.
        unit: of a number; empty where it has none.
        default: its value where it is unset; null: it has none.
        required: whether a row needs it.
        choices: the words that it may be; empty: others are possible.
        now: whether the running pipeline takes it; else it takes effect at the next start.
        fixed: flag or environment variable that sets it in place of the file; null: none does.
        fields: of `rows`: the keys of a row.
    """

    key: str
    description: str
    kind: str
    unit: str
    default: Any
    required: bool
    choices: list[str]
    now: bool
    fixed: str | None
    fields: list[SettingField]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that can be changed.

    Attributes:
        file: the configuration file; null: the pipeline was started without one.
        problem: why nothing can be changed now, and what mends it; null: it can be.
        version: version of the file, for a change.
        values: key → value in use, addresses without credentials; empty where the file is wrong.
        fields: every setting that can be changed; empty where the file is wrong.
        waiting: keys that the file changes at the next start of the pipeline.
        restart: command that restarts the pipeline; null: it is not known.
        undo: unix time in seconds of the change that can be undone; null: there is none.
    """

    file: str | None
    problem: str | None
    version: str
    values: dict[str, Any]
    fields: list[SettingField]
    waiting: list[str]
    restart: str | None
    undo: float | None


@dataclasses.dataclass(frozen=True)
class SettingsChange:
    """Change settings.

    Attributes:
        version: `version` of the settings that the change was made from.
        changes: key → value; null: the default. Rows as a list of tables.
    """

    version: str = dataclasses.field(metadata=VERSION)
    changes: dict[str, Any] = dataclasses.field(metadata=CHANGES)


@dataclasses.dataclass(frozen=True)
class SettingsUndo:
    """Undo the newest change of settings.

    Attributes:
        version: `version` of the settings that are shown.
    """

    version: str = dataclasses.field(metadata=VERSION)


@dataclasses.dataclass(frozen=True)
class SettingsAnswer:
    """What became of a change.

    Attributes:
        ok: whether the settings are valid, and written where that was asked for.
        text: why they are not, in one line; empty where they are.
        key: the key that is wrong, such as `alerts.0.threshold`; empty where it is none alone.
        waiting: keys that the file changes at the next start of the pipeline.
    """

    ok: bool
    text: str
    key: str
    waiting: list[str]


def change_request(body: Any) -> SettingsChange | None:
    """The request in a JSON body; None if it is none."""
    if not isinstance(body, dict) or set(body) != {"version", "changes"}:
        return None
    version, changes = body["version"], body["changes"]
    known = isinstance(changes, dict) and bool(changes) and set(changes) <= set(EDITABLE)
    return SettingsChange(version, changes) if known and _is_version(version) else None


def undo_request(body: Any) -> SettingsUndo | None:
    """The request in a JSON body; None if it is none."""
    if not isinstance(body, dict) or set(body) != {"version"} or not _is_version(body["version"]):
        return None
    return SettingsUndo(body["version"])


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 64
