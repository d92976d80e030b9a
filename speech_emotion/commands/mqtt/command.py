"""`speech-emotion mqtt`: forward results to an MQTT broker and to Home Assistant."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import re
import signal
import ssl
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

from speech_emotion.commands.mqtt.discovery import (
    OFF,
    OFFLINE,
    ON,
    ONLINE,
    Topics,
    pipeline_messages,
    stream_messages,
)
from speech_emotion.common.client.flags import add_results_flags, open_results
from speech_emotion.common.client.results import Freshness, NewerProtocolError, Results, Status
from speech_emotion.common.errors import EXIT_OK, UserError, needs_extra, printable
from speech_emotion.common.stage.control import ask
from speech_emotion.common.stage.main import Parser
from speech_emotion.common.wire.control_messages import MuteSet, SetMute
from speech_emotion.common.wire.endpoint import check_host_name
from speech_emotion.common.wire.public import Result, Utterance
from speech_emotion.supervision.control_socket import find

if TYPE_CHECKING:
    from speech_emotion.commands.mqtt.forwarder import Broker, Forwarder

DESCRIPTION = """\
Forward results to an MQTT broker, with discovery messages for Home Assistant.

Topics below the prefix, `sep`:
  STREAM/state         the current state, retained, sent when it changes
  STREAM/utterance     each utterance that has ended
  STREAM/availability  online while results of the stream are up to date, else offline
  availability         online while the pipeline sends messages, else offline
  mute                 whether the pipeline is muted, and why
  mute/set             with --mute-switch: on and off, a command
  status               online while this program is connected to the broker, else offline

The broker may start later and may restart. Up to 10,000 utterances wait for it and are delivered
at least once (QoS 1); of the state only the newest is sent. At its end the program waits up to five
seconds for a connected broker and prints the number of utterances that were not delivered. The
password comes from the environment variable MQTT_PASSWORD.
"""
TURN_S = 0.25
UPDATE_S = 1.0
MUTE_S = 8.0
"""Longest time in seconds that a command to mute waits for the pipeline."""
PORT, TLS_PORT = 1883, 8883
LOCAL = r"ipc://.*|tcp://(127(\.\d+){3}|localhost|\[::1\]):\d+"
UP_TO_DATE = (Freshness.FRESH, Freshness.DEGRADED)
MUTED_STATE = "muted"


def main(words: list[str]) -> int:
    """Run `speech-emotion mqtt` until SIGTERM or Ctrl-C; returns the exit code.

    Raises:
        UserError: a flag is malformed, the extra is missing, or the pipeline is newer.
    """
    flags = _parser().parse_args(words)
    if re.search(r"[+#/\s]", flags.prefix) or not flags.prefix:
        raise UserError(f"--prefix {flags.prefix!r} must be one level of a topic, such as sep")
    if flags.mute_switch and not re.fullmatch(LOCAL, flags.results):
        raise UserError("--mute-switch needs the pipeline on this machine")
    if importlib.util.find_spec("paho") is None:
        raise UserError(needs_extra("mqtt"))
    from speech_emotion.commands.mqtt.forwarder import Forwarder

    broker = _broker(flags)
    topics = Topics(flags.prefix)
    stops: list[int] = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        # Event.set takes a lock, which the interrupted main thread may hold.
        signal.signal(signum, lambda number, _: stops.append(number))
    with open_results(flags) as results:
        forwarder = Forwarder(broker, topics, flags.discovery, listen=flags.mute_switch)
        bridge = Bridge(results, forwarder, topics, flags.discovery, switch=flags.mute_switch)
        try:
            while bridge.turn(0.0 if stops else TURN_S) or not stops:
                pass
        except NewerProtocolError as error:
            raise UserError(str(error)) from None
        finally:
            forwarder.close()
    return EXIT_OK


class Bridge:
    """From the messages of a pipeline to the topics of a broker.

    Args:
        discovery: Home Assistant's prefix of discovery topics.
        switch: obey commands to mute.
    """

    def __init__(
        self,
        results: Results,
        forwarder: Forwarder,
        topics: Topics,
        discovery: str,
        *,
        switch: bool,
    ) -> None:
        self._results, self._forwarder = results, forwarder
        self._topics, self._discovery, self._switch = topics, discovery, switch
        self._newest: dict[str, Result] = {}
        self._update_due = 0.0

    def turn(self, timeout: float) -> bool:
        """Forward the next message, and what has changed since; whether one came in time.

        Raises:
            NewerProtocolError: the pipeline is newer than this program.
        """
        event = self._results.receive(timeout)
        if event is not None and not event.replay:
            match event.message:
                case Utterance() as utterance:
                    self._forwarder.utterance(utterance)
                case Result() as result:
                    self._newest[result.stream] = result
                    self._update_due = 0.0
        command = self._forwarder.command()
        if command is not None and self._switch:
            _report_mute(muted=command)
        if time.monotonic() >= self._update_due:
            self._update_due = time.monotonic() + UPDATE_S
            self._update()
        return event is not None

    def _update(self) -> None:
        retain = self._forwarder.retain
        for topic, payload in pipeline_messages(self._topics, self._discovery, switch=self._switch):
            retain(topic, payload)
        gone = self._results.status().state is Freshness.GONE
        retain(self._topics.alive, OFFLINE if gone else ONLINE)
        if self._results.health is not None:
            retain(self._topics.mute, json.dumps(self._mute()))
        for stream, result in self._newest.items():
            self._update_stream(stream, result)

    def _update_stream(self, stream: str, result: Result) -> None:
        info, status = self._results.info.get(stream), self._results.status(stream)
        labels = info.labels if info is not None else None
        for topic, payload in stream_messages(
            self._topics, self._discovery, stream, result.bundle, labels
        ):
            self._forwarder.retain(topic, payload)
        alive = status.state in UP_TO_DATE
        self._forwarder.retain(self._topics.availability(stream), ONLINE if alive else OFFLINE)
        muted = self._results.health is not None and self._results.health.mute is not None
        state = json.dumps(state_of(result, status, muted=muted))
        self._forwarder.retain(self._topics.state(stream), state, qos=0)

    def _mute(self) -> dict[str, Any]:
        mute = self._results.health.mute if self._results.health is not None else None
        if mute is None:
            return {"muted": OFF, "by": [], "until": None, "text": "sound is taken"}
        until = None
        if mute.until is not None:
            until = dt.datetime.fromtimestamp(mute.until).astimezone().isoformat(timespec="minutes")
        return {"muted": ON, "by": mute.by, "until": until, "text": mute.text}


def state_of(result: Result, status: Status, *, muted: bool) -> dict[str, Any]:
    """The state of a stream for Home Assistant; rounded values change less often."""
    return {
        "emotion": MUTED_STATE if muted else result.emotion or result.state,
        "confidence": None if result.confidence is None else round(100 * result.confidence, -1),
        "level": round(result.rms_db, -1),
        "speech": ON if result.state == "speech" else OFF,
        "problem": OFF if status.reason is None else ON,
    }


def _report_mute(*, muted: bool) -> None:
    """Mute or unmute the pipeline of this machine; the switch and quiet hours still hold."""
    from speech_emotion.commands.mqtt.forwarder import report

    try:
        outcome = ask(find(None), SetMute(muted, None, "command over MQTT"), MuteSet, MUTE_S)
        report(printable(outcome.text))
    except UserError as error:
        report(str(error))


def _parser() -> Parser:
    parser = Parser(
        prog="speech-emotion mqtt",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--broker", default="127.0.0.1", metavar="HOST[:PORT]")
    parser.add_argument("--username", help="the password is in MQTT_PASSWORD")
    parser.add_argument("--tls", action="store_true", help="encrypt; the port is then 8883")
    parser.add_argument("--ca", metavar="FILE", help="certificate to trust, with --tls")
    parser.add_argument("--prefix", default="sep", help="of all topics; default: %(default)s")
    parser.add_argument(
        "--discovery",
        default="homeassistant",
        metavar="PREFIX",
        help="prefix of Home Assistant's discovery topics; default: %(default)s",
    )
    parser.add_argument(
        "--mute-switch",
        action="store_true",
        help="offer a switch: what can publish to the broker can then mute and unmute the pipeline "
        "of this machine",
    )
    add_results_flags(parser, stream=True)
    return parser


def _broker(flags: argparse.Namespace) -> Broker:
    from speech_emotion.commands.mqtt.forwarder import Broker

    try:
        parts = urllib.parse.urlsplit(f"//{flags.broker}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.netloc != flags.broker or "@" in flags.broker:
        raise UserError(f"--broker {flags.broker!r} must be HOST or HOST:PORT")
    check_host_name(host)
    if flags.ca and not flags.tls:
        raise UserError("--ca needs --tls")
    context = None
    if flags.tls:
        try:
            context = ssl.create_default_context(cafile=flags.ca)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"--ca {flags.ca}: {error.strerror or error}") from None
    password = os.environ.get("MQTT_PASSWORD")
    return Broker(host, port or (TLS_PORT if context else PORT), flags.username, password, context)
