"""Reports to the supervisor, for the audit log: tokens and keys that the page receives, and what a
person does in the review.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.stage.control import CONTROL
from speech_emotion.common.wire.control_messages import LogIn, ReviewAct
from speech_emotion.common.wire.sockets import connect, send


class AuditReports:
    """Sends and does not wait; a supervisor that does not read loses reports.

    Args:
        control: control socket of the supervisor; None: nothing is reported.
    """

    def __init__(self, control: Path | None) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        endpoint = f"ipc://{control}"
        self._socket = connect(self._context, endpoint, CONTROL) if control is not None else None

    def note(self, report: LogIn | ReviewAct) -> None:
        """Send a report."""
        if self._socket is not None:
            send(self._socket, report)

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)
