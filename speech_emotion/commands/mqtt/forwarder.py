"""The connection to a broker that may be unreachable for a time.

Of a retained topic only the newest payload matters: it is sent when it changes, and again when the
broker was connected anew. Utterances wait in a queue and are delivered at least once (QoS 1).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import ssl
import sys
import threading
from collections import deque
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from speech_emotion.commands.mqtt.discovery import OFF, OFFLINE, ON, ONLINE, Topics
from speech_emotion.common.connection_error import phrase
from speech_emotion.common.wire import public

QUEUED = 10_000
"""Utterances that wait for the broker; more are dropped and counted."""
LAST_DELIVERY_S = 5.0
"""Longest time in seconds that `close` waits for a connected broker."""
KEEPALIVE_S = 15


@dataclasses.dataclass(frozen=True)
class Broker:
    """Where the broker is.

    Attributes:
        tls: context of an encrypted connection; None: not encrypted.
    """

    host: str
    port: int
    username: str | None
    password: str | None
    tls: ssl.SSLContext | None


class Forwarder:
    """Publishes to a broker; use it from one thread. It connects, and connects again, by itself.

    Args:
        discovery: Home Assistant's prefix of discovery topics; its birth message is on
            `DISCOVERY/status`.
        listen: take commands on `topics.set_mute`.

    Attributes:
        dropped: utterances that found the queue full.
    """

    def __init__(self, broker: Broker, topics: Topics, discovery: str, *, listen: bool) -> None:
        self.dropped = 0
        self._topics, self._birth, self._listen = topics, f"{discovery}/status", listen
        self._address = f"{broker.host}:{broker.port}"
        self._retained: dict[str, tuple[str, int]] = {}
        self._undelivered: set[int] = set()
        self._acknowledged: deque[int] = deque()
        self._commands: deque[bool] = deque(maxlen=1)
        self._closing = False
        self._causes: set[str] = set()
        """Reported causes of failed connections since the last one that was made."""
        self._lost = False  # a connection was lost, and that was reported
        self._current = False  # the broker has every retained payload of this connection
        self._lock = threading.Lock()
        # A broker disconnects the older of two clients with the same id.
        client_id = f"{topics.prefix}-forward-{secrets.token_hex(4)}"
        self._client = client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls is not None:
            client.tls_set_context(broker.tls)
        client.max_queued_messages_set(QUEUED)
        client.reconnect_delay_set(1, 15)
        client.will_set(topics.status, OFFLINE, qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = lambda _c, _u, mid, _code, _p: self._acknowledged.append(mid)
        client.connect_async(broker.host, broker.port, keepalive=KEEPALIVE_S)
        client.loop_start()

    def retain(self, topic: str, payload: str, qos: int = 1) -> None:
        """Make a retained topic have this payload, now and whenever the broker is connected."""
        self._settle()
        with self._lock:
            if self._retained.get(topic) == (payload, qos):
                return
            self._retained[topic] = payload, qos
            if self._current:  # else `_publish_all` sends it, once
                self._client.publish(topic, payload, qos=qos, retain=True)

    def utterance(self, utterance: public.Utterance) -> None:
        """Publish an utterance, or queue it until the broker is connected."""
        payload = {
            "event_type": utterance.emotion,
            "time": utterance.time,
            "emotion": utterance.emotion,
            "confidence": utterance.confidence,
            "probabilities": utterance.probabilities,
            "run": utterance.run,
            "seq": utterance.seq,
            "seconds": (utterance.end - utterance.start) / utterance.rate,
        }
        topic = self._topics.utterance(utterance.stream)
        info = self._client.publish(topic, json.dumps(payload), qos=1)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            self.dropped += 1
            report(f"the queue is full, {self.dropped} utterances dropped")
        else:
            self._undelivered.add(info.mid)
        self._settle()

    def command(self) -> bool | None:
        """The newest command to mute (True) or unmute (False); None without one."""
        with contextlib.suppress(IndexError):
            return self._commands.popleft()
        return None

    def close(self) -> None:
        """Deliver the queue, then `offline`; report the number of undelivered utterances."""
        self._closing = True
        if self._client.is_connected():
            last = self._client.publish(self._topics.status, OFFLINE, qos=1, retain=True)
            # `disconnect` does not wait for the queue and cancels the last will.
            with contextlib.suppress(ValueError, RuntimeError):  # queue full; disconnected
                last.wait_for_publish(LAST_DELIVERY_S)
        self._client.disconnect()
        self._client.loop_stop()
        self._settle()
        if self._undelivered:
            report(f"{len(self._undelivered)} utterances were not delivered")

    def _on_connect(self, client: mqtt.Client, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        if code.is_failure:
            report(f"the broker refused the connection: {code}")
            return
        self._causes.clear()
        self._lost = False
        self._publish_all()
        report("connected")
        topics = [self._birth, self._topics.status, self._topics.availability("+")]
        if self._listen:
            topics.append(self._topics.set_mute)
        client.subscribe([(topic, 1) for topic in topics])

    def _on_message(self, _c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        if self._closing:
            return
        text = message.payload.decode("utf-8", "replace")
        if message.topic == self._birth:
            if text == ONLINE:  # Home Assistant has started
                self._publish_all()
        elif message.topic == self._topics.status:
            if text == OFFLINE:
                # The last will of another program with this prefix, or of an earlier connection.
                self._client.publish(message.topic, ONLINE, qos=1, retain=True)
        elif message.topic == self._topics.set_mute:
            # A retained command is an old one: it would come again with each connection.
            if not message.retain and text.lower() in (ON, OFF):
                self._commands.append(text.lower() == ON)
        else:
            self._compare(message.topic, text, old=bool(message.retain))

    def _compare(self, topic: str, text: str, *, old: bool) -> None:
        """Note what the broker has of an availability: another program may have written it."""
        with self._lock:
            known = topic in self._retained
            if known:  # the next `retain` corrects it
                self._retained[topic] = text, 1
        if not known and old and text == ONLINE:
            # An earlier life of this program wrote it, and no result has come since.
            self._client.publish(topic, OFFLINE, qos=1, retain=True)

    def _publish_all(self) -> None:
        with self._lock:
            self._current = True
            self._client.publish(self._topics.status, ONLINE, qos=1, retain=True)
            for topic, (payload, qos) in self._retained.items():
                self._client.publish(topic, payload, qos=qos, retain=True)

    def _settle(self) -> None:
        """Remove acknowledged messages; the broker may acknowledge before `publish` returns."""
        while self._acknowledged:
            self._undelivered.discard(self._acknowledged.popleft())

    def _on_connect_fail(self, _c: Any, _u: Any) -> None:
        error = sys.exception()  # paho calls this while it handles the error
        cause = "unknown cause" if error is None else phrase(error, "broker")
        if cause not in self._causes and not self._lost and not self._closing:
            self._causes.add(cause)
            report(f"no connection to {self._address}: {cause}; trying again")

    def _on_disconnect(self, _c: Any, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        with self._lock:
            self._current = False
        if not self._closing:
            self._lost = True
            report(f"disconnected ({code}); reconnecting")


def report(text: str) -> None:
    """Print a line about the forwarding."""
    print(f"mqtt: {text}", flush=True)
