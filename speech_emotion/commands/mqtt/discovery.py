"""Topics, and the discovery messages of the entities in Home Assistant. Pure.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from speech_emotion import __version__

ON, OFF = "on", "off"
ONLINE, OFFLINE = "online", "offline"
UNCERTAIN = "uncertain"
ORIGIN = {"name": "speech-emotion", "sw_version": __version__}
SENSORS: dict[str, dict[str, Any]] = {
    "emotion": {"kind": "sensor", "name": "Emotion", "icon": "mdi:account-voice"},
    "confidence": {"kind": "sensor", "name": "Confidence", "unit_of_measurement": "%"},
    "level": {"kind": "sensor", "name": "Level", "unit_of_measurement": "dB"},
    "speech": {"kind": "binary_sensor", "name": "Speech", "device_class": "sound"},
    "problem": {"kind": "binary_sensor", "name": "Problem", "device_class": "problem"},
}
"""Entities of a stream whose values are the keys of its state."""
BINARY = {"payload_on": ON, "payload_off": OFF}
MUTE = {"name": "Mute", "icon": "mdi:microphone-off", "value_template": "{{ value_json.muted }}"}
KINDS_OF_MUTE = {True: "switch", False: "binary_sensor"}


@dataclasses.dataclass(frozen=True)
class Topics:
    """The topics of one prefix."""

    prefix: str

    @property
    def status(self) -> str:
        """`online` while this program is connected to the broker; its last will is `offline`."""
        return f"{self.prefix}/status"

    @property
    def alive(self) -> str:
        """`online` while the pipeline sends messages."""
        return f"{self.prefix}/availability"

    @property
    def mute(self) -> str:
        """Whether the pipeline is muted, and why."""
        return f"{self.prefix}/mute"

    @property
    def set_mute(self) -> str:
        """Commands: `on` or `off`."""
        return f"{self.prefix}/mute/set"

    def state(self, stream: str) -> str:
        """The state of a stream."""
        return f"{self.prefix}/{stream}/state"

    def utterance(self, stream: str) -> str:
        """Each utterance that has ended."""
        return f"{self.prefix}/{stream}/utterance"

    def availability(self, stream: str) -> str:
        """`online` while the results of a stream are up to date."""
        return f"{self.prefix}/{stream}/availability"


def stream_messages(
    topics: Topics, discovery: str, stream: str, bundle: str, labels: list[str] | None
) -> Iterator[tuple[str, str]]:
    """Topic and payload of each entity of a stream.

    Args:
        discovery: Home Assistant's prefix of discovery topics.
        bundle: id of the model bundle.
        labels: labels of the bundle; None: not known yet, utterances are not announced.
    """
    node = f"{topics.prefix}_{stream}"
    device = {
        "identifiers": [node],
        "name": f"Speech emotion {stream}",
        "manufacturer": "speech-emotion-pipeline",
        "model": bundle,
    }
    fresh = _availability(topics.status, topics.availability(stream))
    for name, about in SENSORS.items():
        config = {
            **{key: value for key, value in about.items() if key != "kind"},
            **(BINARY if about["kind"] == "binary_sensor" else {}),
            "state_topic": topics.state(stream),
            "value_template": f"{{{{ value_json.{name} }}}}",
            # A stream without results is a problem, which must not hide itself.
            **(_availability(topics.status) if name == "problem" else fresh),
        }
        yield _message(discovery, about["kind"], node, name, device, config)
    if labels is not None:
        config = {
            "name": "Utterance",
            "icon": "mdi:account-voice",
            "state_topic": topics.utterance(stream),
            "event_types": [*labels, UNCERTAIN],
            **fresh,
        }
        yield _message(discovery, "event", node, "utterance", device, config)


def pipeline_messages(topics: Topics, discovery: str, *, switch: bool) -> Iterator[tuple[str, str]]:
    """Topic and payload of the entity that shows the mute; an empty payload removes the other kind.

    Args:
        switch: the entity can be switched.
    """
    node = f"{topics.prefix}_pipeline"
    device = {
        "identifiers": [node],
        "name": "Speech emotion",
        "manufacturer": "speech-emotion-pipeline",
    }
    config = {
        **MUTE,
        **BINARY,
        "state_topic": topics.mute,
        "json_attributes_topic": topics.mute,
        **({"command_topic": topics.set_mute} if switch else {}),
        **_availability(topics.status, topics.alive),
    }
    yield f"{discovery}/{KINDS_OF_MUTE[not switch]}/{node}/mute/config", ""
    yield _message(discovery, KINDS_OF_MUTE[switch], node, "mute", device, config)


def _availability(*topics: str) -> dict[str, Any]:
    return {"availability": [{"topic": topic} for topic in topics], "availability_mode": "all"}


def _message(
    discovery: str,
    kind: str,
    node: str,
    name: str,
    device: dict[str, Any],
    config: dict[str, Any],
) -> tuple[str, str]:
    table = {**config, "unique_id": f"{node}_{name}", "device": device, "origin": ORIGIN}
    return f"{discovery}/{kind}/{node}/{name}/config", json.dumps(table)
