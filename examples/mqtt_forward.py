"""Forwards results to an MQTT broker; Home Assistant finds them by itself.

    python examples/mqtt_forward.py --broker 192.168.1.10

Topics: `sep/STREAM/state` is what is heard now (retained, when it changes), `sep/STREAM/utterance`
each utterance once it has ended, `sep/status` whether this program is there.

A broker may come later, go and come back. Utterances wait for it, the newest 10,000 of them, and
are delivered at least once (QoS 1); of the state only the newest counts. At its end the program
gives a broker that is there five seconds to take what waits, and says how many utterances were not
taken. A password is taken from the environment variable MQTT_PASSWORD.
"""

import argparse
import contextlib
import json
import os
import signal
import threading
import time
from collections import deque
from typing import Any

import paho.mqtt.client as mqtt

from speech_emotion.common.client.results import DEFAULT_ENDPOINT, Results
from speech_emotion.common.wire.public import Result, Utterance

QUEUED = 10_000
GOODBYE_S = 5.0
DISCOVERY = "homeassistant"
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
    """Publishes to a broker that may be away."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.unsent = 0
        self._prefix: str = options.prefix
        self._states: dict[str, dict[str, Any]] = {}
        self._announced: dict[str, str] = {}
        self._waiting: set[int] = set()
        self._taken: deque[int] = deque()
        self._lock = threading.Lock()
        self._client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"{self._prefix}-forward"
        )
        if options.username:
            client.username_pw_set(options.username, os.environ.get("MQTT_PASSWORD"))
        client.max_queued_messages_set(QUEUED)
        client.reconnect_delay_set(1, 15)
        client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = lambda _c, _u, mid, _code, _p: self._taken.append(mid)
        host, _, port = options.broker.partition(":")
        client.connect_async(host, int(port or 1883), keepalive=15)
        client.loop_start()

    def state(self, stream: str, bundle: str, state: dict[str, Any]) -> None:
        """Publish what is heard now, if it has changed."""
        self._settle()
        with self._lock:
            if self._states.get(stream) == state:
                return
            self._states[stream] = state
            new = self._announced.get(stream) != bundle
            self._announced[stream] = bundle
            if self._client.is_connected():
                self._retain(stream, announce=new)

    def utterance(self, said: Utterance) -> None:
        """Publish an utterance, or keep it until the broker is back."""
        payload = {
            "time": said.time,
            "emotion": said.emotion,
            "confidence": said.confidence,
            "probabilities": said.probabilities,
            "run": said.run,
            "seq": said.seq,
            "seconds": (said.end - said.start) / said.rate,
        }
        topic = f"{self._prefix}/{said.stream}/utterance"
        info = self._client.publish(topic, json.dumps(payload), qos=1)
        if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            self.unsent += 1
            print(f"mqtt: the queue is full, {self.unsent} utterances were let go", flush=True)
        else:
            self._waiting.add(info.mid)
        self._settle()

    def close(self) -> None:
        """Say goodbye behind all that waits, and tell what the broker did not take."""
        if self._client.is_connected():
            goodbye = self._client.publish(f"{self._prefix}/status", "offline", qos=1, retain=True)
            # A disconnect does not wait for what is queued, and takes the last will back.
            with contextlib.suppress(ValueError, RuntimeError):  # a full queue; just gone
                goodbye.wait_for_publish(GOODBYE_S)
        self._client.disconnect()
        self._client.loop_stop()
        self._settle()
        if self._waiting:
            print(f"mqtt: {len(self._waiting)} utterances did not reach the broker", flush=True)

    def _connected(self, client: mqtt.Client, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        if code.is_failure:
            print(f"mqtt: refused: {code}", flush=True)
            return
        print("mqtt: connected", flush=True)
        with self._lock:
            client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)
            for stream in self._states:
                self._retain(stream, announce=True)

    def _settle(self) -> None:
        """What is taken waits no more; the broker may answer before `publish` returns."""
        while self._taken:
            self._waiting.discard(self._taken.popleft())

    def _disconnected(self, _c: Any, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        print(f"mqtt: the broker is away ({code}); trying again", flush=True)

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


def state_of(result: Result, *, well: bool) -> dict[str, Any]:
    """What is worth telling a home of a window; rounded, so that it seldom changes."""
    return {
        "emotion": result.emotion or result.state,
        "confidence": None if result.confidence is None else round(100 * result.confidence, -1),
        "level": round(result.rms_db, -1),
        "speech": "on" if result.state == "speech" else "off",
        "problem": "off" if well else "on",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    parser.add_argument("--broker", default="127.0.0.1", metavar="HOST[:PORT]")
    parser.add_argument("--username", help="password: MQTT_PASSWORD")
    parser.add_argument("--prefix", default="sep", help="of all topics; default: %(default)s")
    options = parser.parse_args()
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    forwarder = Forwarder(options)
    newest: dict[str, Result] = {}
    look_due = 0.0
    with Results(options.endpoint) as results:
        while True:
            ending = stop.is_set()
            event = results.receive(timeout=0.0 if ending else 0.25)
            if ending and event is None:
                break
            if event is not None and not event.replay:
                match event.message:
                    case Utterance() as said:
                        forwarder.utterance(said)
                    case Result() as result:
                        newest[result.stream] = result
                        look_due = 0.0
            if time.monotonic() >= look_due:
                look_due = time.monotonic() + 1.0
                for stream, result in newest.items():
                    well = results.status(stream).reason is None
                    forwarder.state(stream, result.bundle, state_of(result, well=well))
    forwarder.close()


if __name__ == "__main__":
    main()
