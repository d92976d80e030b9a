"""Which settings the page can change, and what it says about each."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from speech_emotion.common.alert_address import HIDDEN, shown_address
from speech_emotion.common.config.checks import BASELINES
from speech_emotion.common.config.load import ConfigError
from speech_emotion.common.config.model import ENV_PREFIX, Config
from speech_emotion.dashboard.settings_messages import EDITABLE, NOW, SettingField

UNITS = {
    "history.days": "days",
    "review.hours": "hours",
    "review.max_mb": "MB",
    "alerts.length_s": "s",
    "alerts.cool_down_s": "s",
}
CHOICES = {"baseline": BASELINES}
"""Words that a key may have, where its type does not say so."""
COMMAND = "command:"


def fields(flags: Mapping[str, Any]) -> list[SettingField]:
    """Every setting that can be changed.

    Args:
        flags: key → value from the command line.
    """
    return [_described(key, _info(key), _fixed(key, flags)) for key in EDITABLE]


def values(config: Config) -> dict[str, Any]:
    """Key → value of each setting; addresses without credentials."""
    table = config.model_dump(mode="json")
    for rule in table["alerts"]:
        rule["to"] = [shown_address(one) for one in rule["to"]]
    return {key: _at(table, key) for key in EDITABLE}


def with_addresses(changes: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The changes with the addresses as they are in the configuration, credentials included.

    Raises:
        ConfigError: an address hides a secret that is not known here, or is a new command.
    """
    rules = changes.get("alerts")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        return dict(changes)
    names = [rule.get("name") for rule in rules]
    done = []
    for number, rule in enumerate(rules):
        # A rule that has another name now has taken its addresses along.
        order = sorted(
            config.alerts, key=lambda old: (old.name != rule.get("name"), old.name in names)
        )
        known: dict[str, str] = {}
        for old in order:
            for address in old.to:
                known.setdefault(shown_address(address), address)
        given = rule.get("to")
        given = [given] if isinstance(given, str) else given
        if isinstance(given, list):
            key = f"alerts.{number}.to"
            rule = {**rule, "to": [_address(one, known, key) for one in given]}
        done.append(rule)
    return {**changes, "alerts": done}


def _address(given: Any, known: Mapping[str, str], key: str) -> Any:
    if not isinstance(given, str):
        return given
    if given in known:
        return known[given]
    if given.startswith(COMMAND) and given not in known.values():
        raise ConfigError(f"{key}: a command can be added in the configuration file only", key)
    if HIDDEN in given:
        raise ConfigError(f"{key}: write the whole address; {HIDDEN} hides a part of it", key)
    return given


def _info(key: str) -> FieldInfo:
    name, _, rest = key.partition(".")
    info = Config.model_fields[name]
    table = info.annotation
    if not rest:
        return info
    assert isinstance(table, type)
    assert issubclass(table, BaseModel)
    return table.model_fields[rest]


def _at(table: dict[str, Any], key: str) -> Any:
    name, _, rest = key.partition(".")
    return table[name][rest] if rest else table[name]


def _fixed(key: str, flags: Mapping[str, Any]) -> str | None:
    """What sets a key beside the file; None: nothing does."""
    name, _, rest = key.partition(".")
    flag = flags.get(name)
    if flag is not None and (not rest or rest in flag):
        return f"--{name.replace('_', '-')}"
    variable = f"{ENV_PREFIX}{key.replace('.', '__')}".upper()
    wider = f"{ENV_PREFIX}{name}".upper()
    given = [one for one in os.environ if one.upper() in (variable, wider)]
    given += [one for one in os.environ if one.upper().startswith(f"{variable}__")]
    return given[0] if given else None


def _described(key: str, info: FieldInfo, fixed: str | None = None) -> SettingField:
    kind, choices, row = _kind(info.annotation)
    choices = CHOICES.get(key, choices)
    default = None if info.default is PydanticUndefined else info.default
    return SettingField(
        key=key,
        description=info.description or "",
        kind="choice" if choices and kind == "text" else kind,
        unit=UNITS.get(key, ""),
        default=list(default) if isinstance(default, tuple) else default,
        required=info.is_required(),
        choices=list(choices),
        now=key.startswith(NOW),
        fixed=fixed,
        fields=[
            _described(f"{key}.{name}", one)
            for name, one in (row.model_fields if row else {}).items()
        ],
    )


def _kind(hint: Any) -> tuple[str, tuple[str, ...], type[BaseModel] | None]:
    """Kind of an input, the words that it offers, and the table of a row."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _kind(next(one for one in parts if one is not types.NoneType))
    if origin is Literal:
        return "choice", parts, None
    if origin is tuple:
        if isinstance(parts[0], type) and issubclass(parts[0], BaseModel):
            return "rows", (), parts[0]
        kind, choices, _ = _kind(parts[0])
        return ("choices" if kind == "choice" else "texts"), choices, None
    kinds = {bool: "switch", int: "integer", float: "number", str: "text"}
    return kinds[hint], (), None


def row_defaults() -> dict[str, Any]:
    """Key of a row, such as `alerts.threshold` → its default."""
    found: dict[str, Any] = {}
    waiting = [_described(key, _info(key)) for key in EDITABLE]
    while waiting:
        field = waiting.pop()
        waiting += field.fields
        found[field.key] = field.default
    return found
