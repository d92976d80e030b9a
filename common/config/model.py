"""The configuration as typed, validated tables."""

from __future__ import annotations

import dataclasses
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_settings
from pydantic import Field, field_validator, model_validator

from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.config.alerts import MAX_RULES, AlertConfig, OutboxConfig
from speech_emotion.common.config.checks import (
    SOURCES,
    check_baseline,
    check_channel,
    check_endpoint,
    check_source,
    check_stream,
    expand_source,
)
from speech_emotion.common.config.nats import NatsConfig
from speech_emotion.common.config.privacy import (
    AuditConfig,
    LightConfig,
    MuteConfig,
    NoticeConfig,
    ReviewConfig,
)
from speech_emotion.common.config.table import Table as _Table
from speech_emotion.common.config.table import checked as _checked
from speech_emotion.common.config.user_path import UserPath
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.security.curve import CurveServerKeys
from speech_emotion.common.security.exposure import (
    check_base_url,
    check_host,
    check_listen,
    check_reach,
    check_token,
    split_listen,
)
from speech_emotion.common.source_address import is_live
from speech_emotion.common.wire.endpoint import check_exposure, is_loopback

ENV_PREFIX = "SEP_"


config_file: ContextVar[Path | None] = ContextVar("config_file", default=None)
"""The TOML file that `load_config` reads."""


DEFAULT_STREAM = "main"


MAX_STREAMS = 512


def _check_tcp(endpoint: str) -> str:
    if not endpoint.startswith("tcp://"):
        raise UserError(f"endpoint {endpoint!r} must be tcp://ADDRESS:PORT")
    return check_endpoint(endpoint)


class RingConfig(_Table):
    """[ring]"""

    seconds: float = Field(
        default=30.0, ge=2.5, le=3600.0, description="length of the ring in seconds"
    )


class CaptureConfig(_Table):
    """[capture]"""

    block_frames: int | None = Field(
        default=None,
        ge=1,
        le=96000,
        description="frames per block; unset: block_ms, and for files at full speed 500 ms",
    )
    block_ms: float = Field(
        default=20.0, ge=1.0, le=1000.0, description="length of a block of a device in ms"
    )
    latency: Literal["low", "high"] | Annotated[float, Field(gt=0.0, le=5.0)] = Field(
        default="high", description="latency of a device: PortAudio's low or high, or seconds"
    )
    wait_for_device: bool = Field(
        default=False, description="wait for a device that is absent at the start"
    )


class CurveConfig(_Table):
    """[curve]"""

    secret: UserPath | None = Field(
        default=None,
        description=".key_secret file of this machine; made by `speech-emotion keygen`",
    )
    allowed: UserPath | None = Field(
        default=None, description="folder with the .key files of the clients that may subscribe"
    )
    unprotected: bool = Field(
        default=False, description="let the whole network subscribe without keys"
    )

    @property
    def lock(self) -> CurveServerKeys | None:
        """Keys of the results endpoint; None where it needs none."""
        return CurveServerKeys(self.secret, self.allowed) if self.secret and self.allowed else None

    @model_validator(mode="after")
    def _both(self) -> CurveConfig:
        if (self.secret is None) != (self.allowed is None):
            missing = "secret" if self.secret is None else "allowed"
            raise ValueError(f"{missing} is missing; secret and allowed belong together")
        return self


@dataclasses.dataclass(frozen=True)
class InferHost:
    """Endpoints for infer on another machine, and their keys."""

    hub: str
    features: str
    lock: CurveServerKeys


class InferHostConfig(_Table):
    """[infer_host]"""

    hub: str | None = Field(
        default=None,
        description="endpoint that takes results of infer on another machine; unset: it runs here",
    )
    features: str | None = Field(default=None, description="endpoint that gives it features")
    secret: UserPath | None = Field(default=None, description=".key_secret file of this machine")
    allowed: UserPath | None = Field(
        default=None, description="folder with the .key files of infer hosts"
    )

    _hub = field_validator("hub")(lambda value: value and _checked(_check_tcp, value))
    _features = field_validator("features")(lambda value: value and _checked(_check_tcp, value))

    @property
    def wanted(self) -> InferHost | None:
        """The complete table; None where infer runs on this machine."""
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
        description="TCP port for Prometheus; unset: no metrics",
    )
    address: str = Field(default="127.0.0.1", description="address to listen on")
    token: str | None = Field(
        default=None,
        description="secret that Prometheus sends (`authorization`); required beyond loopback",
    )

    _token = field_validator("token")(lambda value: value and _checked(check_token, value))

    @model_validator(mode="after")
    def _protected(self) -> MetricsConfig:
        if self.port is not None and self.token is None and not is_loopback(self.address):
            raise ValueError(
                f"{self.address} can be reached from other machines: set metrics.token, "
                "or keep the address 127.0.0.1"
            )
        return self


class WorkersConfig(_Table):
    """[workers]"""

    features: int = Field(default=1, ge=1, le=64, description="number of features processes")
    infer: int = Field(default=1, ge=1, le=64, description="number of infer processes")


def _check_pair(certificate: Path | None, private_key: Path | None) -> None:
    if (certificate is None) != (private_key is None):
        missing = "certificate" if certificate is None else "private_key"
        raise ValueError(f"{missing} is missing; certificate and private_key belong together")


class ListenConfig(_Table):
    """[listen]"""

    token: str | None = Field(
        default=None,
        description="secret that devices send to `listen:ws://` sources; required beyond loopback",
    )
    certificate: UserPath | None = Field(
        default=None, description="PEM certificate chain for `listen:wss://` sources"
    )
    private_key: UserPath | None = Field(default=None, description="PEM key of the certificate")

    _token = field_validator("token")(lambda value: value and _checked(check_token, value))

    @model_validator(mode="after")
    def _both(self) -> ListenConfig:
        _check_pair(self.certificate, self.private_key)
        return self


class DashboardConfig(_Table):
    """[dashboard]"""

    listen: str | None = Field(
        default=None, description="address and port of the live page; unset: no page"
    )
    token: str | None = Field(
        default=None,
        description="secret that a browser needs to see the page; required beyond loopback",
    )

    base_url: str | None = Field(
        default=None,
        description="address of the page behind a reverse proxy, such as https://example.org/emotion",
    )
    trusted_hosts: tuple[str, ...] = Field(
        default=(), description="further host names of requests that the page answers"
    )
    api_keys: UserPath | None = Field(
        default=None,
        description="file of the keys that `speech-emotion api-key` manages; unset: api_keys.json "
        "in $STATE_DIRECTORY, else in $XDG_STATE_HOME/speech-emotion",
    )
    certificate: UserPath | None = Field(
        default=None, description="PEM certificate chain; the page is then at https://"
    )
    private_key: UserPath | None = Field(default=None, description="PEM key of the certificate")

    _listen = field_validator("listen")(lambda value: value and _checked(check_listen, value))
    _base_url = field_validator("base_url")(lambda value: value and _checked(check_base_url, value))
    _hosts = field_validator("trusted_hosts")(
        lambda value: tuple(_checked(check_host, name) for name in value)
    )
    _token = field_validator("token")(lambda value: value and _checked(check_token, value))

    @model_validator(mode="after")
    def _protected(self) -> DashboardConfig:
        _check_pair(self.certificate, self.private_key)
        if self.listen is not None:
            _checked(lambda listen: check_reach(listen, self.token), self.listen)
        return self


class HistoryConfig(_Table):
    """[history]"""

    file: UserPath | None = Field(
        default=None,
        description="SQLite file for results, utterances and health; unset: no history",
    )
    days: float = Field(
        default=14.0, gt=0.0, le=3660.0, description="age in days from which entries are removed"
    )


class StreamConfig(_Table):
    """[[stream]]"""

    name: str = Field(DEFAULT_STREAM, description="part of the topics; 1 to 40 of a-z 0-9 _ -")
    source: str = Field(..., description=SOURCES)
    channel: int | tuple[int, ...] | None = Field(
        default=None,
        description="channel of the source to use, 0 to 63, or a list of channels to mix; "
        "unset: the mean of all channels (of a microphone: of two)",
    )
    mix: Literal["mean", "flip", "best"] | None = Field(
        default=None,
        description="while the channels of a live source cancel each other: mean reports it, flip "
        "inverts the inverted ones, best takes the loudest; unset: flip",
    )

    _name = field_validator("name")(lambda value: _checked(check_stream, value))
    _source = field_validator("source")(lambda value: expand_source(_checked(check_source, value)))
    _channel = field_validator("channel", mode="before")(
        lambda value: _checked(check_channel, value)
    )

    @model_validator(mode="after")
    def _mix_is_of_a_live_source(self) -> StreamConfig:
        if self.mix not in (None, "mean") and not is_live(self.source):
            raise ValueError(
                f"mix = {self.mix!r} needs a live source; of a recording take one channel: "
                "channel = 0"
            )
        return self


class Config(pydantic_settings.BaseSettings):
    """All settings of a user."""

    model_config = pydantic_settings.SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    bundle: UserPath = Field(DEFAULT_BUNDLE, description="folder of the model bundle")
    runtime: Literal["auto", "litert", "tflite", "onnx"] = Field(
        "auto", description="library that runs the model; auto: the first one that can"
    )
    results: str = Field("tcp://127.0.0.1:5555", description="endpoint that subscribers connect to")
    speed: Literal["realtime", "max"] = Field(
        "realtime", description="pace of file sources; max: as fast as results are accepted"
    )
    sensitivity: Literal["low", "medium", "high"] = Field(
        "medium",
        description="operating point of the bundle: low gives fewer false emotional labels, "
        "high finds more emotions",
    )
    baseline: str = Field(
        "stream",
        description="compare each stream with what it usually sounds like, if the bundle can: "
        "off or stream",
    )
    prosody: bool = Field(
        False, description="measure pitch, loudness, speaking rate and pauses of each utterance"
    )
    record: UserPath | None = Field(
        None, description="folder for recorded sound and messages; unset: no recording"
    )
    ring: RingConfig = RingConfig()
    capture: CaptureConfig = CaptureConfig()
    curve: CurveConfig = CurveConfig()
    infer_host: InferHostConfig = InferHostConfig()
    metrics: MetricsConfig = MetricsConfig()
    workers: WorkersConfig = WorkersConfig()
    listen: ListenConfig = ListenConfig()
    dashboard: DashboardConfig = DashboardConfig()
    history: HistoryConfig = HistoryConfig()
    mute: MuteConfig = MuteConfig()
    light: LightConfig = LightConfig()
    audit: AuditConfig = AuditConfig()
    review: ReviewConfig = ReviewConfig()
    notice: NoticeConfig = NoticeConfig()
    alerts: tuple[AlertConfig, ...] = Field(
        (), max_length=MAX_RULES, description="one row per rule"
    )
    outbox: OutboxConfig = OutboxConfig()
    nats: NatsConfig = NatsConfig()
    stream: tuple[StreamConfig, ...] = Field(
        (), max_length=MAX_STREAMS, description="one row per stream"
    )

    _results = field_validator("results")(lambda value: _checked(check_endpoint, value))
    _baseline = field_validator("baseline")(lambda value: _checked(check_baseline, value))

    @model_validator(mode="after")
    def _protected(self) -> Config:
        locked, unprotected = self.curve.lock is not None, self.curve.unprotected
        try:
            check_exposure(self.results, "results", locked=locked, unprotected=unprotected)
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _devices_need_a_token(self) -> Config:
        for source in (stream.source for stream in self.stream):
            if source.startswith(("listen:ws:", "listen:wss:")):
                host = split_listen(source.split("/")[2])[0]
                if self.listen.token is None and not is_loopback(host):
                    raise ValueError(
                        f"{source} can be reached from other machines: set listen.token, "
                        "or listen on 127.0.0.1"
                    )
                if source.startswith("listen:wss:") and self.listen.certificate is None:
                    raise ValueError(f"{source} needs listen.certificate and listen.private_key")
        return self

    @model_validator(mode="after")
    def _one_worker_for_a_host(self) -> Config:
        if self.infer_host.wanted and self.workers.features > 1:
            raise ValueError("workers.features must be 1 with an infer_host")
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

    @model_validator(mode="after")
    def _alerts_fit(self) -> Config:
        rules, streams = [rule.name for rule in self.alerts], [one.name for one in self.stream]
        for rule in self.alerts:
            if rules.count(rule.name) > 1:
                raise ValueError(f"two alerts are named {rule.name!r}; names must differ")
            if rule.stream is not None and rule.stream not in streams:
                raise ValueError(
                    f"the alert {rule.name!r} needs a stream {rule.stream!r}; configured: "
                    f"{', '.join(streams)}"
                )
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
        """Precedence: flags, environment, file, one microphone; tables are merged by key."""
        microphone: dict[str, Any] = {"stream": [{"source": "mic"}]}
        return (
            init_settings,
            env_settings,
            _TomlFile(settings_cls, config_file.get()),
            pydantic_settings.InitSettingsSource(settings_cls, microphone),
        )


class _TomlFile(pydantic_settings.TomlConfigSettingsSource):
    """The TOML file. Each mistake in it is one line, and it may be a pipe."""

    def _read_files(self, files: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return {} if files is None else read_toml(files)
