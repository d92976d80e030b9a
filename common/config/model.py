"""The configuration as typed, validated tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pydantic_settings
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from speech_emotion.common.config.checks import SOURCES, check_endpoint, check_source, check_stream
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.security.curve import CurveServerKeys
from speech_emotion.common.security.exposure import (
    check_listen,
    check_reach,
    check_token,
)
from speech_emotion.common.wire.endpoint import check_exposure

ENV_PREFIX = "SEP_"


FROM_FILE = "__from_file__"


DEFAULT_STREAM = "main"


MAX_STREAMS = 256


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
    def lock(self) -> CurveServerKeys | None:
        """What the results endpoint is locked with; None without keys."""
        return CurveServerKeys(self.secret, self.allowed) if self.secret and self.allowed else None

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
    lock: CurveServerKeys


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
            return InferHost(self.hub, self.features, CurveServerKeys(self.secret, self.allowed))
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


def _checked(check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except UserError as error:
        raise ValueError(str(error)) from None
