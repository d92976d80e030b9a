"""The plan of a fleet: one TOML file that names the centre and every box."""

from __future__ import annotations

from pathlib import Path

import pydantic
from pydantic import Field, field_validator, model_validator

from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.config.load import mistake
from speech_emotion.common.config.nats import check_token
from speech_emotion.common.config.table import Table, checked
from speech_emotion.common.config.user_path import UserPath
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire.endpoint import is_loopback

FOLDER, STORE = Path("/etc/sep/nats"), Path("/var/lib/sep-nats")


class Centre(Table):
    """[centre]

    Attributes:
        host: name or address at which boxes and programs reach it.
        port: for programs, such as `fleet store`, and boxes without a server of their own.
        leaf_port: for the servers of boxes.
        certificate, private_key: PEM files of the centre; on loopback none are needed.
        ca: PEM file of the authority that signed it; it is copied to every box.
        folder: where the files lie on the centre.
        store: folder of the server's data.
        days, gb: limits of the centre's stream.
    """

    host: str = Field(min_length=1)
    port: int = Field(default=4222, ge=1, le=65535)
    leaf_port: int = Field(default=7422, ge=1, le=65535)
    certificate: UserPath | None = None
    private_key: UserPath | None = None
    ca: UserPath | None = None
    folder: UserPath = FOLDER
    store: UserPath = STORE
    days: float = Field(default=30.0, gt=0.0, le=3660.0)
    gb: float | None = Field(default=None, gt=0.0)

    @model_validator(mode="after")
    def _encrypted(self) -> Centre:
        files = (self.certificate, self.private_key)
        if (files[0] is None) != (files[1] is None):
            raise ValueError("certificate and private_key belong together")
        if files[0] is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host!r} needs certificate and private_key")
        return self

    @property
    def encrypted(self) -> bool:
        """Whether its ports speak TLS."""
        return self.certificate is not None


class Box(Table):
    """[[box]]

    Attributes:
        site, name: parts of the subjects.
        leaf: whether it runs a server of its own, which keeps results while the link is down.
        port, monitor_port: of that server, on loopback; the second one answers `/healthz`.
        folder: where its files lie on the box.
        store: folder of the server's data.
        stream_mb, stream_days: limits of its stream.
        rollout: whether it takes bundles from the centre.
    """

    site: str
    name: str
    leaf: bool = True
    port: int = Field(default=4222, ge=1, le=65535)
    monitor_port: int = Field(default=8222, ge=1, le=65535)
    folder: UserPath = FOLDER
    store: UserPath = STORE
    stream_mb: int = Field(default=1024, ge=1, le=1_000_000)
    stream_days: float = Field(default=14.0, gt=0.0, le=3660.0)
    rollout: bool = False

    _names = field_validator("site", "name")(lambda value: checked(check_token, value))


class Plan(Table):
    """The file."""

    centre: Centre
    box: tuple[Box, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> Plan:
        names = [(one.site, one.name) for one in self.box]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two boxes are named {' '.join(name)}; names must differ")
        return self


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: one line with the key and what is wrong.
    """
    table = read_toml(path)
    try:
        return Plan.model_validate(table)
    except pydantic.ValidationError as error:
        raise UserError(f"{path}: {mistake(error, Plan)}") from None
