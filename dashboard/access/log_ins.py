"""Reports tokens and keys that the page receives to the supervisor,
for the audit log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq

from speech_emotion.common.stage.control import CONTROL
from speech_emotion.common.wire.internal import LogIn
from speech_emotion.common.wire.sockets import connect, send


class LogIns:
    """Sends and does not wait; a supervisor that does not read loses reports.

    Args:
        control: control socket of the supervisor; None: nothing is reported.
    """

    def __init__(self, control: Path | None) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        endpoint = f"ipc://{control}"
        self._socket = connect(self._context, endpoint, CONTROL) if control is not None else None

    def note(self, log_in: LogIn) -> None:
        """Report a token or key that was accepted or refused."""
        if self._socket is not None:
            send(self._socket, log_in)

    def close(self) -> None:
        """Close the socket."""
        self._context.destroy(linger=0)
