"""The job of a supervised stage: read at its start, tied to the life of the supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from typing import Any

import zmq

from speech_emotion.common.errors import (
    EXIT_FAULT,
)
from speech_emotion.common.stage.heartbeat import BEAT_S, HeartbeatSender
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire.sockets import connect

STANDBY = "standby"
"""State of a stage that is ready to take another one's place."""


PR_SET_PDEATHSIG = 1


def read_job() -> dict[str, Any]:
    """The job, a line that the supervisor wrote to standard input; ties this process to its life.

    The kernel kills this process when the supervisor dies, even
    while it is stopped or stuck.
    """
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != job["supervisor_pid"]:
        os._exit(EXIT_FAULT)  # it died before the kernel knew
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    with contextlib.suppress(PermissionError):  # below 0 is not for everybody
        os.setpriority(os.PRIO_PROCESS, 0, job["nice"])
    return job


def stand_by(name: str, hub: str, stop: StopRequest) -> bool:
    """Beat as `name`, all work prepared, until the supervisor closes standard input.

    Returns:
        False where this process is to end instead.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        heartbeat = HeartbeatSender(name, connect(context, hub, "hub"))
        heartbeat.state = STANDBY
        heartbeat.beat(now=True)
        while not select.select([sys.stdin], [], [], BEAT_S / 2)[0]:
            if stop.requested:
                return False
            heartbeat.beat()
    finally:
        context.destroy(linger=0)
    return not stop.requested
