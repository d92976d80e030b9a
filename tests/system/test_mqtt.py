"""`speech-emotion mqtt` with a real broker: topics, discovery, availability, mute."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.commands.mqtt.discovery import Topics
from speech_emotion.common.wire import public
from tests.support.broker import MOSQUITTO, Broker, Listener
from tests.support.certificates import make_certificate
from tests.support.history import make_utterance
from tests.support.live_page import INFO, live, sending
from tests.support.pipelines import PATIENCE_S, ROOT, Running, command, line_of, wait_until
from tests.support.publisher import Publisher, health
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]
COMMAND = (sys.executable, "-m", "speech_emotion", "mqtt")
PATIENT = (
    *(sys.executable, "-c"),
    "import sys; from speech_emotion.commands.mqtt import command, forwarder; "
    f"forwarder.LAST_DELIVERY_S = {PATIENCE_S}; sys.exit(command.main(sys.argv[1:]))",
)
"""The same with more time for the last deliveries than a busy machine takes."""
EXAMPLE = (sys.executable, str(ROOT / "examples" / "mqtt_forward.py"))


@contextlib.contextmanager
def forwarding(
    broker: Broker | int, endpoint: str, *flags: str, program: tuple[str, ...] = COMMAND
) -> Iterator[subprocess.Popen[str]]:
    """The program; its lines are read from its stdout. The broker can be given by its port."""
    port = broker if isinstance(broker, int) else broker.port
    process = subprocess.Popen(
        [*program, "--endpoint", endpoint, "--broker", f"127.0.0.1:{port}", *flags],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str) -> None:
    """Read lines up to one that begins so; on a busy machine attempts before may have timed out."""
    while not line_of(process).startswith(wanted):
        pass


def newest(listener: Listener, topic: str) -> Any:
    """The newest payload of a topic, decoded; None before any."""
    payloads = listener.of(topic)
    return json.loads(payloads[-1]) if payloads else None


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    one = Listener(broker.port)
    yield one
    one.close()


def test_home_assistant_finds_what_is_forwarded(
    publisher: tuple[Publisher, str], broker: Broker, listener: Listener
) -> None:
    with forwarding(broker, publisher[1]) as process:
        assert line_of(process) == "mqtt: connected\n"
        wait_until(lambda: listener.newest("sep/status") == "online", "the status")
        publisher[0].wait_for()
        for message in (health(), INFO, live(1), make_utterance(1)):
            publisher[0].send(message)
        state = {
            "emotion": "angry",
            "confidence": 80.0,
            "level": -20.0,
            "speech": "on",
            "problem": "off",
        }
        with publisher[0].repeating_health():
            wait_until(lambda: newest(listener, "sep/main/state") == state, "the state")
        wait_until(lambda: len(configs(listener)) == 7, "the discovery messages")
        for topic, config in configs(listener).items():
            check_entity(topic, config, state)
        ids = {config["unique_id"] for config in configs(listener).values()}
        assert len(ids) == 7
        wait_until(lambda: bool(listener.of("sep/main/utterance")), "the utterance")
        event = newest(listener, "sep/main/utterance")
        assert (event["event_type"], event["confidence"]) == ("sad", 0.75)
        process.kill()  # the broker sends its last will
        wait_until(lambda: listener.newest("sep/status") == "offline", "the last will")


def configs(listener: Listener) -> dict[str, Any]:
    """The entities that are announced, by topic."""
    found = {
        topic: payload
        for topic, payload, _ in list(listener.messages)
        if topic.startswith("homeassistant/") and topic.endswith("/config")
    }
    return {topic: json.loads(payload) for topic, payload in found.items() if payload}


def check_entity(topic: str, config: dict[str, Any], state: dict[str, Any]) -> None:
    """Check one announced entity; test_home_assistant.py asks Home Assistant itself."""
    _, kind, node, name, _ = topic.split("/")
    assert config["unique_id"] == f"{node}_{name}"
    assert config["device"]["identifiers"] == [node]
    available = [one["topic"] for one in config["availability"]]
    assert config["availability_mode"] == "all"
    if name == "mute":
        assert (kind, node) == ("binary_sensor", "sep_pipeline")
        assert available == ["sep/status", "sep/availability"]
        return
    assert node == "sep_main"
    assert config["device"]["model"] == live(0).bundle
    assert available == ["sep/status", "sep/main/availability"][: 1 if name == "problem" else 2]
    if name == "utterance":
        assert (kind, config["state_topic"]) == ("event", "sep/main/utterance")
        assert config["event_types"] == ["angry", "sad", "uncertain"]
        return
    assert kind in ("sensor", "binary_sensor")
    assert config["state_topic"] == "sep/main/state"
    assert config["value_template"].removeprefix("{{ value_json.").removesuffix(" }}") in state


def test_availability_follows_the_results_and_not_the_connection(
    publisher: tuple[Publisher, str], broker: Broker, listener: Listener
) -> None:
    # What an earlier life has left; no result of that stream comes any more.
    wait_until(lambda: listener.connected, "the listener to be one")
    listener.publish("sep/hall/availability", "online")
    with forwarding(broker, publisher[1]) as process:
        assert line_of(process) == "mqtt: connected\n"
        wait_until(lambda: listener.newest("sep/hall/availability") == "offline", "the correction")
        publisher[0].wait_for()
        available, seqs = "sep/main/availability", itertools.count()

        def publish() -> None:
            publisher[0].send(health())
            publisher[0].send(live(next(seqs)))

        with sending(publish):
            wait_until(lambda: listener.newest(available) == "online", "results")
        wait_until(lambda: listener.newest(available) == "offline", "stale results")
        wait_until(lambda: newest(listener, "sep/main/state")["problem"] == "on", "its problem")
        wait_until(lambda: listener.newest("sep/availability") == "offline", "a gone pipeline")
        assert listener.of("sep/status") == ["online"]
        with sending(publish):
            wait_until(lambda: listener.newest(available) == "online", "results again")


def test_home_assistant_mutes_and_a_physical_switch_is_not_overruled(
    supervise: Supervise, clip: Clip, broker: Broker, listener: Listener, tmp_path: Path
) -> None:
    switch = tmp_path / "switch"
    switch.write_text("0\n")
    settings = {"SEP_MUTE__STATE": str(tmp_path / "m.json"), "SEP_MUTE__SWITCH": str(switch)}
    running = supervise(f"--source=file:{clip(12.0, repeat=10)}", env=settings)
    wait_until(lambda: listener.connected, "the listener to be one")
    listener.publish("sep/mute/set", "on")  # of long ago: the broker has kept it

    def muted() -> str | None:
        table = newest(listener, "sep/mute")
        return table and f"{table['muted']} {' '.join(table['by'])}".strip()

    with forwarding(broker, running.endpoint, "--mute-switch") as process:
        assert line_of(process) == "mqtt: connected\n"
        wait_until(lambda: muted() == "off", "the state")
        (config,) = (one for one in configs(listener).values() if "command_topic" in one)
        assert config["command_topic"] == "sep/mute/set"
        listener.publish("sep/mute/set", "on", retain=False)
        assert line_of(process) == "mqtt: muted by hand; no sound is taken\n"
        wait_until(lambda: muted() == "on hand", "the mute")
        wait_until(
            lambda: (newest(listener, "sep/main/state") or {}).get("emotion") == "muted",
            "its state",
        )
        switch.write_text("1\n")
        wait_until(lambda: muted() == "on switch hand", "the switch")
        listener.publish("sep/mute/set", "off", retain=False)
        assert line_of(process) == "mqtt: still muted: muted by the switch\n"
        wait_until(lambda: muted() == "on switch", "the switch alone")
        switch.write_text("0\n")
        wait_until(lambda: muted() == "off", "sound")
    running.process.terminate()
    assert running.ended()[0] == 0


@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto: deploy/setup.sh dev")
def test_a_broker_with_tls_and_a_password(
    publisher: tuple[Publisher, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate(tmp_path)
    passwords, config, port = tmp_path / "passwords", tmp_path / "mosquitto.conf", free_port()
    user = os.environ.get("USER", "root")
    words = ["mosquitto_passwd", "-b", "-c", str(passwords), "sep", "right"]
    subprocess.run(words, check=True, capture_output=True)
    config.write_text(
        f"listener {port} 127.0.0.1\ncertfile {certificate}\nkeyfile {key}\n"
        f"allow_anonymous false\npassword_file {passwords}\nuser {user}\nlog_type error\n"
    )
    flags = ["--tls", "--username", "sep", "--ca", str(certificate)]
    failed = f"mqtt: no connection to 127.0.0.1:{port}: "
    absent = "no broker answers there (connection refused); trying again\n"
    untrusted = "the certificate of the broker is not trusted (self"
    monkeypatch.setenv("MQTT_PASSWORD", "right")
    with forwarding(port, publisher[1], *flags) as process:
        assert line_of(process) == f"{failed}{absent}"
        assert MOSQUITTO is not None
        broker = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            read_until(process, "mqtt: connected\n")
            with forwarding(port, publisher[1], "--tls", "--username", "sep") as distrustful:
                read_until(distrustful, f"{failed}{untrusted}")
            monkeypatch.setenv("MQTT_PASSWORD", "wrong")
            with forwarding(port, publisher[1], *flags) as refused:
                read_until(refused, "mqtt: the broker refused the connection: Not authorized\n")
        finally:
            broker.terminate()
            broker.wait(PATIENCE_S)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--broker", "mqtt://box"], "--broker 'mqtt://box' must be HOST or HOST:PORT"),
        (["--broker", "box:99999"], "--broker 'box:99999' must be HOST or HOST:PORT"),
        (["--prefix", "a/b"], "--prefix 'a/b' must be one level of a topic, such as sep"),
        (["--ca", "none.pem"], "--ca needs --tls"),
        (["--tls", "--ca", "none.pem"], "--ca none.pem: No such file or directory"),
        (
            ["--mute-switch", "--results", "tcp://box:5555"],
            "--mute-switch needs the pipeline on this machine",
        ),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(words: list[str], line: str) -> None:
    done = command("mqtt", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"speech-emotion mqtt: {line}\n"


def test_a_broker_restarts_and_nothing_queued_is_lost(
    publisher: tuple[Publisher, str], broker: Broker, listener: Listener
) -> None:
    with forwarding(broker, publisher[1]) as process:
        assert line_of(process) == "mqtt: connected\n"
        publisher[0].wait_for()
        wait_until(lambda: bool(listener.of("sep/status")), "the listener to be one")

        def arrived() -> list[int]:
            return [json.loads(text)["seq"] for text in listener.of("sep/main/utterance")]

        for seq in range(50):
            publisher[0].send(make_utterance(seq))
        wait_until(lambda: set(arrived()) == set(range(50)), "the first fifty")
        broker.stop()
        assert "disconnected" in line_of(process)
        for seq in range(50, 250):
            publisher[0].send(make_utterance(seq))
            publisher[0].send(live(seq))
            time.sleep(0.01)
        broker.start()
        for seq in range(250, 300):
            publisher[0].send(make_utterance(seq))
            time.sleep(0.01)
        read_until(process, "mqtt: connected\n")  # it may meet the end of the first broker again
        wait_until(lambda: set(arrived()) == set(range(300)), "every utterance")
        wait_until(lambda: listener.newest("sep/status") == "online", "the status")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        wait_until(lambda: listener.newest("sep/status") == "offline", "the offline status")


@contextlib.contextmanager
def two(
    broker: Broker, endpoint: str
) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Two programs with the same prefix."""
    with forwarding(broker, endpoint) as first, forwarding(broker, endpoint) as second:
        yield first, second


def test_two_forwarders_with_one_prefix_run_side_by_side(
    publisher: tuple[Publisher, str], broker: Broker, listener: Listener
) -> None:
    """With one client id the broker would disconnect them in turn, for ever."""
    with two(broker, publisher[1]) as (first, second):
        assert line_of(first) == line_of(second) == "mqtt: connected\n"
        seqs = itertools.count()

        def both_deliver() -> bool:
            publisher[0].send(make_utterance(next(seqs)))
            time.sleep(0.1)
            delivered = [json.loads(text)["seq"] for text in listener.of("sep/main/utterance")]
            return len(delivered) > len(set(delivered))

        wait_until(both_deliver, "both to deliver an utterance")
        second.terminate()
        assert second.communicate(timeout=PATIENCE_S)[0] == ""  # it was never disconnected
        wait_until(lambda: "offline" in listener.of("sep/status"), "the end of the second")
        wait_until(lambda: listener.newest("sep/status") == "online", "the first one's status")
        first.terminate()
        assert first.communicate(timeout=PATIENCE_S)[0] == ""
        wait_until(lambda: listener.newest("sep/status") == "offline", "the last status")


def test_discovery_is_sent_again_when_home_assistant_starts(
    publisher: tuple[Publisher, str], broker: Broker, listener: Listener
) -> None:
    topic = "homeassistant/sensor/sep_main/emotion/config"
    with forwarding(broker, publisher[1]) as process:
        assert line_of(process) == "mqtt: connected\n"
        publisher[0].wait_for()
        publisher[0].send(live(1))
        wait_until(lambda: bool(listener.of(topic)), "the discovery message")
        listener.publish(topic, "")  # a user deletes the device
        wait_until(lambda: listener.newest(topic) == "", "the deletion")
        listener.publish("homeassistant/status", "offline")
        listener.publish("homeassistant/status", "online")
        wait_until(lambda: "Emotion" in listener.of(topic)[-1], "the discovery message again")
        wait_until(lambda: bool(listener.of("sep/main/state")), "the state")
        assert newest(listener, "sep/main/state")["emotion"] == "angry"


def test_what_changes_while_the_broker_connects_is_published_once(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retained payload may be set after the connection stands, but before all are published."""
    from speech_emotion.commands.mqtt import forwarder as module

    connected, changed = threading.Event(), threading.Event()
    publish_all = module.Forwarder._publish_all

    def late(self: module.Forwarder) -> None:
        connected.set()
        assert changed.wait(PATIENCE_S)
        publish_all(self)

    monkeypatch.setattr(module.Forwarder, "_publish_all", late)
    wait_until(lambda: listener.connected, "the listener to be one")
    where = module.Broker("127.0.0.1", broker.port, None, None, None)
    forwarder = module.Forwarder(where, Topics("sep"), "homeassistant", listen=False)
    try:
        assert connected.wait(PATIENCE_S)
        forwarder.retain("sep/test", "a payload")
        changed.set()
        wait_until(lambda: bool(listener.of("sep/status")), "the status, which is sent first")
        forwarder.retain("sep/end", "the last payload")
        wait_until(lambda: bool(listener.of("sep/end")), "the last payload")
        assert listener.of("sep/test") == ["a payload"]
    finally:
        changed.set()
        forwarder.close()


def test_a_slow_broker_is_waited_for_at_the_end(
    publisher: tuple[Publisher, str], broker: Broker, listener: Listener
) -> None:
    with forwarding(broker, publisher[1], program=PATIENT) as process:
        assert line_of(process) == "mqtt: connected\n"
        publisher[0].wait_for()
        wait_until(lambda: listener.of("sep/status") == ["online"], "the listener to be one")
        broker.process.send_signal(signal.SIGSTOP)
        for seq in range(50):  # more than are in flight at once
            publisher[0].send(make_utterance(seq))
        time.sleep(1.0)
        process.terminate()
        time.sleep(1.0)
        broker.process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 0
        wait_until(lambda: listener.newest("sep/status") == "offline", "the offline status")
        wait_until(lambda: len(set(listener.of("sep/main/utterance"))) == 50, "every utterance")


def test_what_no_broker_took_is_counted(publisher: tuple[Publisher, str], broker: Broker) -> None:
    with forwarding(broker, publisher[1]) as process:
        assert line_of(process) == "mqtt: connected\n"
        publisher[0].wait_for()
        broker.stop()
        assert "disconnected" in line_of(process)
        for seq in range(7):
            publisher[0].send(make_utterance(seq))
        time.sleep(1.0)  # messages in its socket are still read when it stops
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        read_until(process, "mqtt: 7 utterances were not delivered\n")


def test_a_real_pipeline_is_forwarded(
    supervise: Supervise, clip: Clip, broker: Broker, listener: Listener
) -> None:
    wait_until(lambda: listener.connected, "the listener to be one")
    running = supervise(f"--source=file:{clip(9.0, repeat=2)}")

    def forwarded() -> list[tuple[int, str]]:
        rows = [json.loads(text) for text in listener.of("sep/main/utterance")]
        return [(row["seq"], row["emotion"]) for row in rows]

    with forwarding(broker, running.endpoint, program=EXAMPLE):
        wait_until(lambda: bool(listener.of("sep/main/state")), "the subscription")
        moment = time.time()
        running.subscriber.wait_for(
            lambda r: any(one.time > moment for one in r.fresh(public.Health))
        )
        missed = len(running.received.fresh(public.Utterance))  # at most
        _, _, received = running.ended()
        spoken = [(one.seq, one.emotion) for one in received.fresh(public.Utterance)]
        assert len(spoken) > missed
        wait_until(lambda: forwarded()[-1:] == spoken[-1:], "utterances")
    assert forwarded() == spoken[-len(forwarded()) :]
    assert len(forwarded()) >= len(spoken) - missed
