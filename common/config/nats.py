"""The table about NATS: where results are published for many boxes together."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from speech_emotion.common.config.checks import check_stream
from speech_emotion.common.config.table import Table, checked
from speech_emotion.common.config.user_path import UserPath
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.state_folder import state_file
from speech_emotion.common.wire.endpoint import check_host_name, is_loopback

SCHEMES = ("nats", "tls")


def check_server(url: str) -> str:
    """Raises UserError where `url` is no server of NATS, or reaches another machine unencrypted."""
    try:
        parts = urlsplit(url)
        complete = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if not complete or parts.path or parts.username is not None:
        raise UserError(
            f"url {url!r} must be nats://HOST:PORT or tls://HOST:PORT; "
            "credentials belong into the file `seed` or `credentials`"
        )
    check_host_name(parts.hostname or "")
    if parts.scheme == "nats" and not is_loopback(parts.hostname or ""):
        raise UserError(f"url {url!r} leaves this machine unencrypted; write tls://HOST:PORT")
    return url


class NatsConfig(Table):
    """[nats]"""

    url: str | None = Field(
        default=None,
        description="server that results are published to, nats://HOST:PORT or tls://HOST:PORT; "
        "unset: no publishing",
    )
    site: str = Field(default="site", description="part of the subjects; 1 to 40 of a-z 0-9 _ -")
    box: str = Field(default="box", description="part of the subjects, different for each box")
    seed: UserPath | None = Field(
        default=None, description="file with the seed of an NKey; made by `fleet init`"
    )
    credentials: UserPath | None = Field(
        default=None, description=".creds file of an operator of NATS, in place of `seed`"
    )
    ca: UserPath | None = Field(
        default=None, description="PEM file of the authority that signed the server's certificate"
    )
    certificate: UserPath | None = Field(
        default=None, description="PEM file of this box's certificate, where the server asks for it"
    )
    private_key: UserPath | None = Field(default=None, description="PEM file of its private key")
    stream_mb: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="size in MiB of the stream that a server on this box (a leaf node) keeps; "
        "unset: the server has its stream already",
    )
    stream_days: float = Field(
        default=14.0, gt=0.0, le=3660.0, description="age in days at which that stream drops rows"
    )
    outbox: UserPath | None = Field(
        default=None,
        description="SQLite file of what the server has not accepted yet; unset: fleet.sqlite in "
        "$STATE_DIRECTORY, else in $XDG_STATE_HOME/speech-emotion",
    )
    outbox_mb: float = Field(
        default=256.0,
        ge=1.0,
        le=100_000.0,
        description="size in MiB from which it drops the oldest",
    )

    rollout: str | None = Field(
        default=None,
        description="public key (NKey) of the centre that may put bundles on this box; written by "
        "`fleet init` where the plan says `rollout = true`; unset: none may",
    )

    _url = field_validator("url")(lambda value: value and checked(check_server, value))
    _site = field_validator("site", "box")(lambda value: checked(check_token, value))
    _rollout = field_validator("rollout")(lambda value: value and checked(check_public_key, value))

    @model_validator(mode="after")
    def _complete(self) -> NatsConfig:
        if self.seed is not None and self.credentials is not None:
            raise ValueError("either seed or credentials, not both")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key belong together")
        if self.rollout is not None and self.seed is None and self.credentials is None:
            raise ValueError("rollout needs seed or credentials: who asks for a bundle must log in")
        return self

    @property
    def outbox_file(self) -> Path:
        """The file of the outbox.

        Raises:
            UserError: the user has no home folder.
        """
        return self.outbox or state_file("fleet.sqlite", "nats.outbox")

    @property
    def bundles_folder(self) -> Path:
        """Folder of the bundles from the centre, beside the outbox."""
        return self.outbox_file.with_suffix(".bundles")


def check_public_key(key: str) -> str:
    """Raises UserError where `key` cannot be the public key of an NKey."""
    if not re.fullmatch(r"U[A-Z2-7]{55}", key):
        raise UserError(
            f"{key[:60]!r} is no public key; it is in the nats.toml that `fleet init` has written"
        )
    return key


def check_token(name: str) -> str:
    """Raises UserError where `name` cannot be part of a subject."""
    try:
        return check_stream(name)
    except UserError:
        raise UserError(f"{name!r} must be 1 to 40 of a-z, 0-9, _ and -") from None
