"""Start of a supervised stage process: read the job, stand by for a bundle swap."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import TypeVar

import zmq

from speech_emotion.common.errors import EXIT_FAULT
from speech_emotion.common.linux.parent_death import die_with_parent
from speech_emotion.common.stage.heartbeat import BEAT_S, HeartbeatSender
from speech_emotion.common.stage.jobs import Job, decode
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.wire.sockets import connect

STANDBY = "standby"
"""State of a process that is ready to replace another one."""

J = TypeVar("J", bound=Job)


def read_job(kind: type[J]) -> J:
    """Read the job from standard input, and tie this process to the life of the supervisor.

    Args:
        kind: class of the job.
    """
    job = decode(kind, sys.stdin.buffer.readline())
    die_with_parent()
    if os.getppid() != job.supervisor_pid:
        os._exit(EXIT_FAULT)  # the supervisor died before the kernel watched it for us
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor
    with contextlib.suppress(PermissionError):  # a value below 0 needs a permission
        os.setpriority(os.PRIO_PROCESS, 0, job.nice)
    return job


def stand_by(name: str, hub: str, stop: StopRequest) -> bool:
    """Send heartbeats as `name` until the supervisor closes standard input.

    Returns:
        Whether to start; False where this process has to end instead.
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
