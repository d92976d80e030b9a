"""Load the configuration. Precedence: TOML file, environment variables, flags; later wins.

`SEP_RING__SECONDS=…` sets `ring.seconds`. An error is one line with the key, the value and the
allowed values.
"""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any, get_args

import pydantic
import pydantic_settings
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from speech_emotion.common.alert_address import shown_address
from speech_emotion.common.config.model import (
    ENV_PREFIX,
    Config,
    DashboardConfig,
    ListenConfig,
    MetricsConfig,
    config_file,
)
from speech_emotion.common.errors import UserError, printable
from speech_emotion.common.source_address import shown

HIDDEN = "****************"
"""Stands for a secret; as long as the shortest token, so that the shown configuration is valid."""


class ConfigError(UserError):
    """A mistake in the configuration.

    Attributes:
        line: the same text without the name of the file.
        key: the key that is wrong, such as `alerts.0.threshold`; empty where it is none alone.
    """

    def __init__(self, line: str, key: str = "", file: Path | None = None) -> None:
        super().__init__(line if file is None else f"{file}: {line}")
        self.line = printable(line)
        self.key = key


def load_config(path: Path | None, flags: dict[str, Any]) -> Config:
    """The effective configuration.

    Args:
        path: TOML file, or None.
        flags: key → value from the command line.

    Raises:
        ConfigError: one line with the key, the value and the allowed values.
    """
    for name in os.environ:
        key = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if name.startswith(ENV_PREFIX) and key not in Config.model_fields:
            raise ConfigError(f"environment variable {name}: {_unknown(key)}")
    token = config_file.set(path)
    try:
        return Config(**flags)
    except pydantic_settings.SettingsError as error:
        field = str(error).split('"')[1]  # the message quotes the field
        variable = f"{ENV_PREFIX}{field.upper()}"
        raise ConfigError(f"environment variable {variable} must be JSON", field) from None
    except pydantic.ValidationError as error:
        key = ".".join(str(part) for part in _first(error)["loc"])
        variable, file = _origin(error, path, flags)
        raise ConfigError(variable + mistake(error, Config), key, file) from None
    finally:
        config_file.reset(token)


def to_toml(config: Config) -> str:
    """The configuration as a TOML file that loads to the same configuration, without unset keys."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def without_secrets(config: Config) -> Config:
    """The configuration to show: asterisks stand for every secret, URLs have no passwords."""
    tables: dict[str, DashboardConfig | ListenConfig | MetricsConfig] = {
        "listen": config.listen,
        "dashboard": config.dashboard,
        "metrics": config.metrics,
    }
    hidden = {
        name: table.model_copy(update={"token": HIDDEN})
        for name, table in tables.items()
        if table.token is not None
    }
    streams = tuple(s.model_copy(update={"source": shown(s.source)}) for s in config.stream)
    alerts = tuple(
        rule.model_copy(update={"to": tuple(map(shown_address, rule.to))}) for rule in config.alerts
    )
    return config.model_copy(update={**hidden, "stream": streams, "alerts": alerts})


def _unknown(key: str) -> str:
    return f"{key} is not a key; allowed: {', '.join(Config.model_fields)}"


def _origin(
    error: pydantic.ValidationError, path: Path | None, flags: dict[str, Any]
) -> tuple[str, Path | None]:
    """The origin of a mistake: a prefix that names a variable, or the file; neither for a flag."""
    location = _first(error)["loc"] or ("stream",)
    if location[0] in flags:
        return "", None
    for depth in range(len(location), 0, -1):
        name = ENV_PREFIX + "__".join(map(str, location[:depth])).upper()
        if name in os.environ:
            return f"environment variable {name}: ", None
    return "", path


ROWS = ("stream", "alerts", "box")
"""Keys of files that are tables of rows."""

_ALLOWED = {
    "model_type": "a table",
    "path_type": "a path",
}
"""Texts for those of pydantic's error types that it describes in Python's terms."""


def mistake(error: pydantic.ValidationError, whole: type[BaseModel]) -> str:
    """What is wrong: the key, the value and the allowed values, in one line.

    Args:
        whole: the model of the whole file.
    """
    first = _first(error)
    key = ".".join(str(part) for part in first["loc"])
    key = key if key.isprintable() else repr(key)
    if first["type"] == "extra_forbidden":
        model = _model_at(first["loc"][:-1], whole)
        return f"{key} is not a key; allowed: {', '.join(model.model_fields)}"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if first["type"] == "missing":
        return f"[[{key}]] is missing" if key in ROWS else f"{key} is missing"
    allowed = _ALLOWED.get(first["type"]) or first["msg"].removeprefix("Input should be ")
    rows = key in ROWS
    kind = "rows" if rows else "entries"
    if first["type"] == "too_long":
        allowed = f"at most {first['ctx']['max_length']} {kind}"
    if first["type"] == "too_short":
        allowed = f"at least {first['ctx']['min_length']} {kind}"
    if first["type"] == "tuple_type":
        allowed = f"rows of [[{key}]]" if rows else "a list"
    return f"{key} = {reprlib.repr(first['input'])} must be {allowed}"


def _first(error: pydantic.ValidationError) -> ErrorDetails:
    """The first mistake; an unknown key before a missing one, which it may be, misspelt."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "missing":
        for other in errors:
            if other["type"] == "extra_forbidden" and other["loc"][:-1] == first["loc"][:-1]:
                return other
    return first


def _model_at(location: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """The model of the table at a location, whose numbers are rows."""
    for part in location:
        if isinstance(part, str):
            hint = model.model_fields[part].annotation
            candidates = (hint, *get_args(hint))
            model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model
