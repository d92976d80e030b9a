"""The configuration: one TOML file, environment variables over it, flags over both.

`SEP_RESULTS=…` sets `results`, `SEP_RING__SECONDS=…` sets `ring.seconds`. A mistake is one
line that names the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pydantic_settings
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from common.bundle import DEFAULT_BUNDLE
from common.errors import UserError
from common.keys import Lock, check_exposure
from common.listen import check_listen, check_reach, check_token
from common.spec import read_toml

STREAM_NAME = r"[a-z0-9_-]{1,40}"
ENV_PREFIX = "SEP_"
FROM_FILE = "__from_file__"
ENDPOINT = r"(tcp://[^\s/:]+:\d{1,5}|tcp://\[[0-9a-fA-F:]+\]:\d{1,5}|ipc://[^\s]+)"
SOURCES = "mic, mic:NAME, file:PATH, stdin:RATE[:CHANNELS] or replay:FOLDER"
STDIN = r"stdin:(\d{4,6})(:\d{1,2})?"
DEFAULT_STREAM = "main"
MAX_STREAMS = 256


def check_stream(name: str) -> str:
    """Raises UserError where `name` cannot be a stream's name."""
    if not re.fullmatch(STREAM_NAME, name):
        raise UserError(f"stream name {name!r} must be 1 to 40 of a-z, 0-9, _ and -")
    return name


def check_source(source: str) -> str:
    """Raises UserError where `source` is of no known kind."""
    kind, _, rest = source.partition(":")
    if source == "mic" or (kind in ("file", "mic", "replay") and rest):
        return source
    if (found := re.fullmatch(STDIN, source)) and 8000 <= int(found[1]) <= 192000:
        return source
    raise UserError(f"source {source!r} is not known; allowed: {SOURCES}")


def check_endpoint(endpoint: str) -> str:
    """Raises UserError where `endpoint` cannot be bound."""
    if not re.fullmatch(ENDPOINT, endpoint) or not endpoint.isprintable():
        raise UserError(
            f"endpoint {endpoint!r} is malformed; allowed: tcp://ADDRESS:PORT or ipc://PATH"
        )
    if endpoint.startswith("tcp://") and int(endpoint.rpartition(":")[2]) > 65535:
        raise UserError(f"endpoint {endpoint!r}: the port must be 0 to 65535")
    return endpoint


def _check_tcp(endpoint: str) -> str:
    if not endpoint.startswith("tcp://"):
        raise UserError(f"endpoint {endpoint!r} must be tcp://ADDRESS:PORT")
    return check_endpoint(endpoint)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RingConfig(_Table):
    """[ring]"""

    seconds: float = Field(default=30.0, ge=2.5, le=3600.0, description="sound that the ring holds")


class CaptureConfig(_Table):
    """[capture]"""

    block_frames: int | None = Field(
        default=None,
        ge=1,
        le=96000,
        description="frames per block; unset: block_ms, and for files at full speed 100 ms",
    )
    block_ms: float = Field(
        default=20.0, ge=1.0, le=1000.0, description="length of a device's blocks"
    )
    latency: Literal["low", "high"] | Annotated[float, Field(gt=0.0, le=5.0)] = Field(
        default="high", description="of a device: PortAudio's low or high, or seconds"
    )
    wait_for_device: bool = Field(
        default=False, description="whether an absent device is waited for"
    )


class CurveConfig(_Table):
    """[curve]"""

    secret: Path | None = Field(
        default=None, description="this box's .key_secret file; `supervisor.py keygen` makes it"
    )
    allowed: Path | None = Field(
        default=None, description="folder with the .key files of those who may subscribe"
    )
    unprotected: bool = Field(
        default=False, description="let the whole network listen, without keys"
    )

    @property
    def lock(self) -> Lock | None:
        """What the results endpoint is locked with; None without keys."""
        return Lock(self.secret, self.allowed) if self.secret and self.allowed else None

    @model_validator(mode="after")
    def _both(self) -> CurveConfig:
        if (self.secret is None) != (self.allowed is None):
            missing = "secret" if self.secret is None else "allowed"
            raise ValueError(f"{missing} is missing; secret and allowed belong together")
        return self


@dataclasses.dataclass(frozen=True)
class InferHost:
    """Where an infer host connects, and who may."""

    hub: str
    features: str
    lock: Lock


class InferHostConfig(_Table):
    """[infer_host]"""

    hub: str | None = Field(
        default=None,
        description="endpoint where infer on another machine hands in results; unset: it runs here",
    )
    features: str | None = Field(default=None, description="endpoint where it gets features")
    secret: Path | None = Field(default=None, description="this box's .key_secret file")
    allowed: Path | None = Field(
        default=None, description="folder with the .key files of infer hosts"
    )

    _hub = field_validator("hub")(lambda value: value and _checked(_check_tcp, value))
    _features = field_validator("features")(lambda value: value and _checked(_check_tcp, value))

    @property
    def wanted(self) -> InferHost | None:
        """All of it; None where infer runs here."""
        if self.hub and self.features and self.secret and self.allowed:
            return InferHost(self.hub, self.features, Lock(self.secret, self.allowed))
        return None

    @model_validator(mode="after")
    def _all_or_none(self) -> InferHostConfig:
        missing = [name for name in type(self).model_fields if getattr(self, name) is None]
        if missing and len(missing) < len(type(self).model_fields):
            raise ValueError(f"{missing[0]} is missing; all four keys belong together")
        return self


class MetricsConfig(_Table):
    """[metrics]"""

    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Prometheus scrapes here; unset: nothing is served",
    )
    address: str = Field(default="127.0.0.1", description="address to serve at")


class WorkersConfig(_Table):
    """[workers]"""

    features: int = Field(default=1, ge=1, le=64, description="processes that make features")
    infer: int = Field(default=1, ge=1, le=64, description="processes that run the model")


class DashboardConfig(_Table):
    """[dashboard]"""

    listen: str | None = Field(
        default=None, description="address and port of the live page; unset: there is none"
    )
    token: str | None = Field(
        default=None, description="what a browser must know to see the page; needed beyond loopback"
    )

    _listen = field_validator("listen")(lambda value: value and _checked(check_listen, value))
    _token = field_validator("token")(lambda value: value and _checked(check_token, value))

    @model_validator(mode="after")
    def _open_to_nobody(self) -> DashboardConfig:
        if self.listen is not None:
            _checked(lambda listen: check_reach(listen, self.token), self.listen)
        return self


class HistoryConfig(_Table):
    """[history]"""

    file: Path | None = Field(
        default=None,
        description="SQLite file of results, utterances and health; unset: none is kept",
    )
    days: float = Field(
        default=14.0, gt=0.0, le=3660.0, description="older entries are removed from it"
    )


class StreamConfig(_Table):
    """[[stream]]"""

    name: str = Field(DEFAULT_STREAM, description="part of the topics; 1 to 40 of a-z 0-9 _ -")
    source: str = Field(..., description=SOURCES)
    channel: int | None = Field(
        default=None,
        ge=0,
        le=63,
        description="one channel of the source; unset: all of them, mixed",
    )

    _name = field_validator("name")(lambda value: _checked(check_stream, value))
    _source = field_validator("source")(lambda value: _checked(check_source, value))


class Config(pydantic_settings.BaseSettings):
    """Everything a user can set."""

    model_config = pydantic_settings.SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    bundle: Path = Field(DEFAULT_BUNDLE, description="folder of the model bundle")
    runtime: Literal["auto", "litert", "tflite"] = Field(
        "auto", description="TFLite runtime; auto: the first that is installed"
    )
    results: str = Field("tcp://127.0.0.1:5555", description="endpoint that subscribers connect to")
    speed: Literal["realtime", "max"] = Field(
        "realtime", description="pace of file sources; max: as fast as results are accepted"
    )
    record: Path | None = Field(
        None, description="folder that takes sound and messages; unset: nothing is recorded"
    )
    ring: RingConfig = RingConfig()
    capture: CaptureConfig = CaptureConfig()
    curve: CurveConfig = CurveConfig()
    infer_host: InferHostConfig = InferHostConfig()
    metrics: MetricsConfig = MetricsConfig()
    workers: WorkersConfig = WorkersConfig()
    dashboard: DashboardConfig = DashboardConfig()
    history: HistoryConfig = HistoryConfig()
    stream: tuple[StreamConfig, ...] = Field(
        (), max_length=MAX_STREAMS, description="one row a stream"
    )

    _results = field_validator("results")(lambda value: _checked(check_endpoint, value))

    @model_validator(mode="after")
    def _protected(self) -> Config:
        locked, unprotected = self.curve.lock is not None, self.curve.unprotected
        try:
            check_exposure(self.results, "results", locked=locked, unprotected=unprotected)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _one_worker_for_a_host(self) -> Config:
        if self.infer_host.wanted and self.workers.features > 1:
            raise ValueError("workers.features must be 1 where there is an infer_host")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        names = [stream.name for stream in self.stream]
        if sum(stream.source.startswith("stdin:") for stream in self.stream) > 1:
            raise ValueError("only one stream can read standard input")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two streams are named {name!r}; names must differ")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[pydantic_settings.BaseSettings],
        init_settings: pydantic_settings.PydanticBaseSettingsSource,
        env_settings: pydantic_settings.PydanticBaseSettingsSource,
        dotenv_settings: pydantic_settings.PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: pydantic_settings.PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[pydantic_settings.PydanticBaseSettingsSource, ...]:
        """Flags over environment over file; pydantic-settings merges them deeply."""
        assert isinstance(init_settings, pydantic_settings.InitSettingsSource)
        flags = dict(init_settings.init_kwargs)
        table = flags.pop(FROM_FILE, {})
        table.setdefault("stream", [{"source": "mic"}])
        return (
            pydantic_settings.InitSettingsSource(settings_cls, flags),
            env_settings,
            pydantic_settings.InitSettingsSource(settings_cls, table),
        )


def load_config(path: Path | None, flags: dict[str, Any]) -> Config:
    """The effective configuration.

    Args:
        path: TOML file, or None.
        flags: what the command line sets, by key.

    Raises:
        UserError: one line naming the key, the value and what is allowed.
    """
    table = read_toml(path) if path is not None else {}
    for name in os.environ:
        key = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if name.startswith(ENV_PREFIX) and key not in Config.model_fields:
            raise UserError(f"environment variable {name}: {_unknown(key)}")
    try:
        values: dict[str, Any] = {**flags, FROM_FILE: table}
        return Config(**values)
    except pydantic_settings.SettingsError as error:
        field = str(error).split('"')[1]  # a sentence about pydantic, and the field in quotes
        raise UserError(f"environment variable {ENV_PREFIX}{field.upper()} must be JSON") from None
    except pydantic.ValidationError as error:
        raise UserError(_origin(error, path, flags) + _line(error)) from None


def to_toml(config: Config) -> str:
    """The configuration as a file that gives it again; what is unset is left out."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _checked(check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except UserError as error:
        raise ValueError(str(error)) from None


def _unknown(key: str) -> str:
    return f"{key} is not a key; allowed: {', '.join(Config.model_fields)}"


def _origin(error: pydantic.ValidationError, path: Path | None, flags: dict[str, Any]) -> str:
    """Where the mistake was made: on the command line, in a variable or in the file."""
    location = error.errors()[0]["loc"] or ("stream",)
    if location[0] in flags:
        return ""
    for depth in range(len(location), 0, -1):
        name = ENV_PREFIX + "__".join(map(str, location[:depth])).upper()
        if name in os.environ:
            return f"environment variable {name}: "
    return f"{path}: " if path is not None else ""


_ALLOWED = {
    "model_type": "a table",
    "tuple_type": "rows of [[stream]]",
    "too_long": f"at most {MAX_STREAMS} rows",
    "path_type": "a path",
}
"""Pydantic's error types of which it speaks in Python's terms, in the user's."""


def _line(error: pydantic.ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    key = key if key.isprintable() else repr(key)
    if first["type"] == "extra_forbidden":
        model = _model_at(first["loc"][:-1])
        return f"{key} is not a key; allowed: {', '.join(model.model_fields)}"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return f"{key}: {message}" if key else message
    if first["type"] == "missing":
        return f"{key} is missing"
    allowed = _ALLOWED.get(first["type"]) or first["msg"].removeprefix("Input should be ")
    return f"{key} = {reprlib.repr(first['input'])} must be {allowed}"


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    tables: dict[str, type[BaseModel]] = {
        "ring": RingConfig,
        "capture": CaptureConfig,
        "curve": CurveConfig,
        "infer_host": InferHostConfig,
        "metrics": MetricsConfig,
        "workers": WorkersConfig,
        "dashboard": DashboardConfig,
        "history": HistoryConfig,
        "stream": StreamConfig,
    }
    return tables[str(location[0])] if location else Config
