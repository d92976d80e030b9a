"""The socket for subscribers: an XPUB that sends each topic's last message to new subscribers."""

from __future__ import annotations

import zmq

from speech_emotion.common.wire import public
from speech_emotion.common.wire.sockets import drain

SUBSCRIBER_HIGH_WATER_MARK = 1000
"""Messages queued per slow subscriber; beyond it that subscriber alone sees a jump in `seq`."""

SUBSCRIBED = b"\x01"
"""First byte of a subscription as an XPUB receives it; the prefix follows."""


class Publisher:
    """Sends public messages, and the last message of a topic to each new subscriber.

    Args:
        socket: an XPUB; the publisher reports all subscriptions, repeated ones too.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._last_values: dict[bytes, public.Public] = {}
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)

    def publish(self, message: public.Public) -> None:
        """Send a message to all subscribers of its topic."""
        topic, payload = public.encode_public(message)
        self._last_values[topic] = message
        self._socket.send_multipart([topic, payload])

    def turn(self) -> None:
        """Answer waiting subscriptions with the last message of each topic they match."""
        for frames in drain(self._socket):
            self._replay(frames[0])

    def _replay(self, subscription: bytes) -> None:
        if subscription[:1] != SUBSCRIBED:
            return
        for topic, message in self._last_values.items():
            if topic.startswith(subscription[1:]):
                self._socket.send_multipart(public.encode_public(message, replay=True))
