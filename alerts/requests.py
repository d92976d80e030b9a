"""The socket that answers the page and the command `speech-emotion alerts`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

from speech_emotion.common.wire import codec, control_messages, internal
from speech_emotion.common.wire.sockets import bind, configure, drain, remove_file


class RequestSocket:
    """Answers `AskAlerts`, from programs of this user only: the folder is theirs.

    Args:
        endpoint: where to bind.
        answer: makes the answer to a request.

    Attributes:
        malformed: messages that were no requests.

    Raises:
        UserError: the endpoint is in use.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        answer: Callable[[control_messages.AskAlerts], control_messages.AlertsState],
    ) -> None:
        self.malformed = 0
        self._endpoint = endpoint
        self._answer = answer
        self._socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        configure(self._socket)
        bind(self._socket, endpoint, "alerts")

    def turn(self) -> None:
        """Answer the requests that have arrived; does not wait."""
        for frames in drain(self._socket):
            try:
                if len(frames) != 2:
                    raise codec.ProtocolError(f"{len(frames)} frames instead of 2")
                request = internal.decode(frames[1])
                if not isinstance(request, control_messages.AskAlerts):
                    raise codec.ProtocolError(f"{type(request).__name__} is no request")
            except codec.ProtocolError:
                self.malformed += 1
                continue
            answer = internal.encode(self._answer(request))
            self._socket.send_multipart([frames[0], answer], zmq.DONTWAIT)

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._socket.close(linger=200)
        remove_file(self._endpoint)
