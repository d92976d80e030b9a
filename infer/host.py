"""An infer host: one process that runs the model for boxes on other machines.

`python -m infer --boxes FILE`. The host connects to hub and features of every box, over TCP with
CURVE keys. An unreachable box costs nothing and is served again when it is back; meanwhile its
samples wait in its ring. See docs/SCALING.md.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pydantic
import zmq
from pydantic import BaseModel, ConfigDict, Field

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.config.checks import ENDPOINT, check_stream
from speech_emotion.common.config.user_path import UserPath
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.systemd import SystemdNotifier
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.security.curve import CurveClientKeys
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.infer.model import Model
from speech_emotion.infer.service import InferService

log = logging.getLogger("infer")

POLL_MS = 100
AWAY_S = 5.0
"""Time without a message from a box's hub after which the box counts as unreachable."""


class Box(BaseModel):
    """[[box]]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    hub: str = Field(pattern=f"^{ENDPOINT}$")
    features: str = Field(pattern=f"^{ENDPOINT}$")
    server: UserPath
    """The box's .key file."""


class Boxes(BaseModel):
    """The file: the boxes, the bundles that they may request, this host's key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    secret: UserPath
    """This host's .key_secret file."""
    bundles: tuple[UserPath, ...] = Field((DEFAULT_BUNDLE,), min_length=1)
    """Bundles that boxes may request."""
    runtime: str = Field("auto", pattern="^(auto|litert|tflite|onnx)$")
    sensitivity: str = Field("medium", pattern="^(low|medium|high)$")
    """Operating point of the bundles."""
    box: tuple[Box, ...] = Field(min_length=1, max_length=256)


def load_boxes(path: Path) -> Boxes:
    """Read the file.

    Raises:
        UserError: a key is missing or invalid; the one line names the key and the cause.
    """
    try:
        boxes = Boxes(**read_toml(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {key}: {first['msg']}") from None
    names = [check_stream(box.name) for box in boxes.box]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two boxes are named {name!r}; names must differ")
    return boxes


def serve_boxes(path: Path) -> int:
    """Serve until a stop is requested. Returns the exit code.

    Raises:
        UserError: the file, a key or a bundle is missing or invalid.
    """
    stop, notifier = StopRequest(), SystemdNotifier()
    boxes = load_boxes(path)
    models = {}
    for folder in boxes.bundles:
        bundle = load_bundle(folder).at(boxes.sensitivity)
        models[bundle.id] = (bundle, Model(bundle, boxes.runtime))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    services: dict[str, InferService] = {}
    away: dict[str, bool] = {}
    try:
        for box in boxes.box:
            client_keys = CurveClientKeys(boxes.secret, box.server)
            service = InferService(
                models, box.hub, box.features, client_keys=client_keys, context=context
            )
            services[box.name], away[box.name] = service, True
        for service in services.values():
            for socket in service.begin():
                poller.register(socket, zmq.POLLIN)
        while not stop.requested:
            ready = dict(poller.poll(POLL_MS))
            for name, service in services.items():
                service.turn(ready)
                if (silent := service.hub_silent_s > AWAY_S) != away[name]:
                    away[name] = silent
                    log.log(
                        logging.WARNING if silent else logging.INFO,
                        "box %s is %s",
                        name,
                        "away" if silent else "connected",
                    )
            connected = len(away) - sum(away.values())
            status = f"{connected} of {len(away)} boxes are connected"
            notifier.turn(time.monotonic(), ready=True, well=True, status=status)
        notifier.stopping()
        for service in services.values():
            service.end()
    finally:
        context.destroy(linger=0)
    return 0
