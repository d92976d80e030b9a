"""The control socket of a running supervisor: one answer for each request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.linux.runtime_dir import runtime_base_dir
from speech_emotion.common.stage.control import CONTROL
from speech_emotion.common.wire import codec, control_messages, internal
from speech_emotion.common.wire.public import Health
from speech_emotion.common.wire.sockets import bind, configure, remove_file

Request: TypeAlias = (
    control_messages.Swap
    | control_messages.ForgetBaseline
    | control_messages.SetMute
    | control_messages.AskHealth
    | control_messages.LogIn
    | control_messages.ReviewAct
    | control_messages.Reconfigure
)


Answer: TypeAlias = (
    control_messages.Swapped | control_messages.MuteSet | control_messages.Reconfigured | Health
)


class ControlSocket:
    """Receives requests, in the runtime folder of the supervisor, from its own user only."""

    def __init__(self, folder: Path) -> None:
        self._endpoint = f"ipc://{folder}/{CONTROL}"
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, self._endpoint, CONTROL)
        self.malformed = 0

    def requests(self) -> Iterator[tuple[bytes, Request]]:
        """The requests that have arrived, each with the identity of its client; does not wait."""
        for _ in range(100):
            try:
                parts = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            try:
                if len(parts) != 2:
                    raise codec.ProtocolError(f"{len(parts)} frames instead of 2")
                message = internal.decode(parts[1])
            except codec.ProtocolError:
                self.malformed += 1
                continue
            if isinstance(message, Request):
                yield parts[0], message
            else:
                self.malformed += 1

    def answer(self, identity: bytes, outcome: Answer) -> None:
        """Answer a client; a client that is gone is ignored."""
        try:
            self._socket.send_multipart([identity, internal.encode(outcome)], zmq.DONTWAIT)
        except zmq.ZMQError:
            return

    def close(self) -> None:
        self._context.destroy(linger=200)
        remove_file(self._endpoint)


def running() -> dict[int, Path]:
    """Process id → control socket, for every running supervisor of this user.

    Raises:
        UserError: the runtime folder cannot be used.
    """
    sockets = {}
    for folder in runtime_base_dir().iterdir():
        owner = ProcessIdentity.parse(folder.name)
        if owner is not None and owner.alive() and (folder / CONTROL).is_socket():
            sockets[owner.pid] = folder / CONTROL
    return sockets


def find(pid: int | None) -> Path:
    """The control socket of the one running supervisor of this user, or of the given one.

    Raises:
        UserError: there is none, or there are several and `pid` is None.
    """
    sockets = running()
    if pid is not None:
        sockets = {one: path for one, path in sockets.items() if one == pid}
    if not sockets:
        which = f"with process id {pid}" if pid is not None else "of this user"
        raise UserError(f"no pipeline {which} is running")
    if len(sockets) > 1:
        raise UserError(
            f"several pipelines are running: choose one with --pid {' or '.join(map(str, sockets))}"
        )
    (control,) = sockets.values()
    return control
