"""Forwards results to an MQTT broker, with discovery messages for Home Assistant.

    python examples/mqtt_forward.py --broker 192.168.1.10

Topics: `sep/STREAM/state` is the current state (retained, sent when it changes),
`sep/STREAM/utterance` each utterance that has ended, `sep/status` `online` or `offline`.

The broker may start later and may restart. Up to 10,000 utterances wait for it and are delivered
at least once (QoS 1); of the state only the newest is sent. When the program ends, it waits up to
five seconds for a connected broker and prints the number of utterances that were not delivered.
Discovery messages are sent again when Home Assistant starts. The password comes from the
environment variable MQTT_PASSWORD.
"""

import argparse
import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections import deque
from typing import Any

try:
    import paho.mqtt.client as mqtt

    from speech_emotion import Result, Results, Utterance
except ModuleNotFoundError as error:
    print(f"mqtt_forward: {error.name} is missing; pip install -e '.[examples]'", file=sys.stderr)
    sys.exit(2)

QUEUED = 10_000
LAST_DELIVERY_S = 5.0
DISCOVERY = "homeassistant"
"""Home Assistant's prefix of discovery topics; its birth message is on `homeassistant/status`."""
ENTITIES: dict[str, dict[str, Any]] = {
    "emotion": {"kind": "sensor", "name": "Emotion", "icon": "mdi:account-voice"},
    "confidence": {"kind": "sensor", "name": "Confidence", "unit_of_measurement": "%"},
    "level": {"kind": "sensor", "name": "Level", "unit_of_measurement": "dB"},
    "speech": {
        "kind": "binary_sensor",
        "name": "Speech",
        "device_class": "sound",
        "payload_on": "on",
        "payload_off": "off",
    },
    "problem": {
        "kind": "binary_sensor",
        "name": "Problem",
        "device_class": "problem",
        "payload_on": "on",
        "payload_off": "off",
    },
}


class Forwarder:
    """Publishes to a broker that may be unreachable for a time."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.dropped = 0
        self._prefix: str = options.prefix
        self._states: dict[str, dict[str, Any]] = {}
        self._announced: dict[str, str] = {}
        self._undelivered: set[int] = set()
        self._acknowledged: deque[int] = deque()
        self._closing = False
        self._lock = threading.Lock()
        # A broker disconnects the older of two clients with the same id.
        client_id = f"{self._prefix}-forward-{secrets.token_hex(4)}"
        self._client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id)
        if options.username:
            client.username_pw_set(options.username, os.environ.get("MQTT_PASSWORD"))
        client.max_queued_messages_set(QUEUED)
        client.reconnect_delay_set(1, 15)
        client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = lambda _c, _u, mid, _code, _p: self._acknowledged.append(mid)
        host, _, port = options.broker.partition(":")
        client.connect_async(host, int(port or 1883), keepalive=15)
        client.loop_start()

    def state(self, stream: str, bundle: str, state: dict[str, Any]) -> None:
        """Publish the state of a stream, if it has changed."""
        self._settle()
        with self._lock:
            if self._states.get(stream) == state:
                return
            self._states[stream] = state
            new = self._announced.get(stream) != bundle
            self._announced[stream] = bundle
            if self._client.is_connected():
                self._retain(stream, announce=new)

    def utterance(self, utterance: Utterance) -> None:
        """Publish an utterance, or queue it until the broker is connected."""
        payload = {
            "time": utterance.time,
            "emotion": utterance.emotion,
            "confidence": utterance.confidence,
            "probabilities": utterance.probabilities,
            "run": utterance.run,
            "seq": utterance.seq,
            "seconds": (utterance.end - utterance.start) / utterance.rate,
        }
        topic = f"{self._prefix}/{utterance.stream}/utterance"
        info = self._client.publish(topic, json.dumps(payload), qos=1)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            self.dropped += 1
            print(f"mqtt: the queue is full, {self.dropped} utterances dropped", flush=True)
        else:
            self._undelivered.add(info.mid)
        self._settle()

    def close(self) -> None:
        """Deliver the queue, then `offline`; print the number of undelivered utterances."""
        self._closing = True
        if self._client.is_connected():
            last = self._client.publish(f"{self._prefix}/status", "offline", qos=1, retain=True)
            # `disconnect` does not wait for the queue and cancels the last will.
            with contextlib.suppress(ValueError, RuntimeError):  # queue full; disconnected
                last.wait_for_publish(LAST_DELIVERY_S)
        self._client.disconnect()
        self._client.loop_stop()
        self._settle()
        if self._undelivered:
            print(f"mqtt: {len(self._undelivered)} utterances were not delivered", flush=True)

    def _on_connect(self, client: mqtt.Client, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        if code.is_failure:
            print(f"mqtt: the broker refused the connection: {code}", flush=True)
            return
        print("mqtt: connected", flush=True)
        self._announce_all()
        client.subscribe([(f"{DISCOVERY}/status", 1), (f"{self._prefix}/status", 1)])

    def _on_message(self, _c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        if self._closing:
            return
        if message.topic == f"{DISCOVERY}/status" and message.payload == b"online":
            self._announce_all()  # Home Assistant has started
        elif message.topic == f"{self._prefix}/status" and message.payload == b"offline":
            # The last will of another forwarder with this prefix, or of an earlier connection.
            self._client.publish(message.topic, "online", qos=1, retain=True)

    def _announce_all(self) -> None:
        with self._lock:
            self._client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)
            for stream in self._states:
                self._retain(stream, announce=True)

    def _settle(self) -> None:
        """Remove acknowledged messages; the broker may acknowledge before `publish` returns."""
        while self._acknowledged:
            self._undelivered.discard(self._acknowledged.popleft())

    def _on_disconnect(self, _c: Any, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        if not self._closing:
            print(f"mqtt: disconnected ({code}); reconnecting", flush=True)

    def _retain(self, stream: str, *, announce: bool) -> None:
        if announce:
            for entity, about in ENTITIES.items():
                topic, payload = self._discovery(stream, entity, about)
                self._client.publish(topic, json.dumps(payload), qos=1, retain=True)
        topic = f"{self._prefix}/{stream}/state"
        self._client.publish(topic, json.dumps(self._states[stream]), qos=0, retain=True)

    def _discovery(
        self, stream: str, entity: str, about: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery"""
        node = f"{self._prefix}_{stream}"
        payload = {
            **{key: value for key, value in about.items() if key != "kind"},
            "unique_id": f"{node}_{entity}",
            "state_topic": f"{self._prefix}/{stream}/state",
            "value_template": f"{{{{ value_json.{entity} }}}}",
            "availability_topic": f"{self._prefix}/status",
            "device": {
                "identifiers": [node],
                "name": f"Speech emotion {stream}",
                "manufacturer": "speech-emotion-pipeline",
                "model": self._announced[stream],
            },
        }
        return f"{DISCOVERY}/{about['kind']}/{node}/{entity}/config", payload


def state_of(result: Result, *, good: bool) -> dict[str, Any]:
    """The state of a window for Home Assistant; rounded values change less often."""
    return {
        "emotion": result.emotion or result.state,
        "confidence": None if result.confidence is None else round(100 * result.confidence, -1),
        "level": round(result.rms_db, -1),
        "speech": "on" if result.state == "speech" else "off",
        "problem": "off" if good else "on",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="default: %(default)s")
    parser.add_argument("--broker", default="127.0.0.1", metavar="HOST[:PORT]")
    parser.add_argument("--username", help="the password is in MQTT_PASSWORD")
    parser.add_argument("--prefix", default="sep", help="of all topics; default: %(default)s")
    options = parser.parse_args()
    stops: list[int] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        # Event.set takes a lock, which the interrupted main thread may hold.
        signal.signal(signum, lambda number, _: stops.append(number))
    forwarder = Forwarder(options)
    newest: dict[str, Result] = {}
    update_due = 0.0
    with Results(options.endpoint) as results:
        while True:
            ending = bool(stops)
            event = results.receive(timeout=0.0 if ending else 0.25)
            if ending and event is None:
                break
            if event is not None and not event.replay:
                match event.message:
                    case Utterance() as utterance:
                        forwarder.utterance(utterance)
                    case Result() as result:
                        newest[result.stream] = result
                        update_due = 0.0
            if time.monotonic() >= update_due:
                update_due = time.monotonic() + 1.0
                for stream, result in newest.items():
                    good = results.status(stream).reason is None
                    forwarder.state(stream, result.bundle, state_of(result, good=good))
    forwarder.close()


if __name__ == "__main__":
    main()
