"""Ask a running supervisor over its control socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TypeVar

import zmq

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.wire import codec, internal
from speech_emotion.common.wire.sockets import connect, send

CONTROL = "control"
"""Name of the socket in the runtime folder of a supervisor."""
ALERTS = "alerts"
"""Name of the socket of its alerts process, in the same folder."""
ANSWER_S = 90.0
"""Longest time that a client waits for the answer."""

A = TypeVar("A", bound=codec.Message)


def ask(control: Path, request: codec.Message, answer: type[A], wait_s: float = ANSWER_S) -> A:
    """Send a request to a supervisor, or to its alerts process, and wait for the answer.

    Args:
        control: its control socket.
        answer: class of the answer.
        wait_s: longest time in seconds to wait.

    Raises:
        UserError: it gives no answer.
    """
    context: zmq.Context[Any] = zmq.Context()
    try:
        socket = connect(context, f"ipc://{control}", CONTROL)
        send(socket, request)
        deadline = time.monotonic() + wait_s
        ended = False
        while not socket.poll(200):
            if ended:
                raise UserError(f"{control}: the pipeline has ended")
            # kill -9 leaves the socket's file.
            owner = ProcessIdentity.parse(control.parent.name)
            # The answer may have come with the end: poll once more.
            ended = not control.exists() or (owner is not None and not owner.alive())
            if not ended and time.monotonic() > deadline:
                raise UserError(f"{control}: no answer within {wait_s:g} s")
        received = internal.decode(socket.recv())
    finally:
        context.destroy(linger=0)
    if not isinstance(received, answer):
        raise UserError(f"{control}: this is another socket")
    return received
