"""Alerts of a real pipeline: delivered at least once, whatever is killed; no secret is shown."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion.alerts.outbox import WAITING, Outbox
from speech_emotion.common.alert_address import parse_address
from speech_emotion.common.wire import public
from tests.support.alert_messages import alert_config, expected_alerts
from tests.support.alert_receivers import Posted, WebServer, web_server
from tests.support.pipelines import (
    PATIENCE_S,
    ROOT,
    Received,
    Running,
    command,
    kill,
    wait_until,
)
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]
SECRET = "pa55-pa55-pa55"


def counters(received: Received) -> dict[str, int]:
    health: public.Health = received.fresh(public.Health)[-1]
    return health.counters


def silence_of(clip: Clip) -> str:
    """A source that raises no alert, for a pipeline that delivers what another has left."""
    return f"--source=file:{clip(1.0, start=0.0, repeat=120, name='silence')}"


def test_kills_in_the_middle_of_deliveries_lose_no_alert(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    requests: list[str] = []
    killed: list[int] = []  # requests until each kill
    raised: dict[int, int] = {}  # kill → alerts that the results until then raise

    def healthy(condition: Callable[[public.Health], bool]) -> None:
        running.subscriber.wait_for(
            lambda r: bool(r.fresh(public.Health)) and condition(r.fresh(public.Health)[-1])
        )

    def answer(one: Posted) -> tuple[int, str] | None:
        requests.append(one.headers["idempotency-key"])
        if len(killed) < 2 and len(requests) >= (1, 4)[len(killed)]:
            victim = running.stages().get("alerts")
            if victim is not None:
                number = len(set(requests))
                healthy(lambda h: h.counters.get("alerts_fired", 0) >= number)
                killed.append(len(requests))
                order = len(killed)
                kill(victim)
                moment = time.time()
                healthy(lambda h: h.time > moment)  # every result until the kill has arrived
                raised[order] = len(expected_alerts(config, running.received))
                # At the first time nothing has arrived. At the second it has, and the process
                # is killed before it can note that.
                return None if order == 1 else (200, "")
        return 200, ""

    with web_server(answers=answer) as server:
        config = alert_config(tmp_path, f"http://127.0.0.1:{server.port}/")
        running = supervise(f"--config={config}", f"--source=file:{clip(20.0)}")
        code, stderr, received = running.ended()
        assert code == 0, stderr
        wanted = expected_alerts(config, received)
        # A pipeline delivers for 1.5 s at its end; the rest waits for the next start.
        again = supervise(f"--config={config}", silence_of(clip))
        wait_until(lambda: set(server.ids()) >= set(wanted), "every alert")
        assert again.stopped()[0] == 0
        assert expected_alerts(config, again.received) == []
        arrived = Counter(server.ids())
    assert len(killed) == 2
    assert len(wanted) > 4
    assert set(arrived) == set(wanted)
    # Sent twice, with the same id: what had arrived and was not noted yet at the second kill.
    number = killed[1]
    assert arrived[requests[number - 1]] == 2
    twice = {one for one, times in arrived.items() if times > 1}
    assert twice <= set(requests[:number])
    assert max(arrived.values()) == 2
    kinds = {one.json["dimension"] or "label" for one in server.posted}
    assert kinds == {"level", "label"}
    last = counters(received)
    assert last["alerts_lost"] == last["alerts_dropped"] == last["alerts_unwritten"] == 0
    # What a killed process had not reported yet is not counted.
    assert last["alerts_fired"] >= len(set(requests[:number])) + len(wanted) - raised[2]
    rows = [s for s in received.fresh(public.Health)[-1].stages if s.name == "alerts"]
    assert rows[0].restarts == 2


def test_what_no_server_took_is_delivered_after_a_restart_of_the_pipeline(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    port = free_port()
    config = alert_config(tmp_path, f"http://127.0.0.1:{port}/")
    running = supervise(f"--config={config}", f"--source=file:{clip(9.0)}", "--speed=max")
    code, stderr, received = running.ended()
    assert code == 0, stderr
    wanted = expected_alerts(config, received)
    assert wanted
    assert f"{len(wanted)} alerts wait in the outbox for the next start" in stderr
    server = WebServer(port=port)
    try:
        again = supervise(f"--config={config}", silence_of(clip))
        wait_until(lambda: len(server.ids()) >= len(wanted), "every alert")
        code, stderr, second = again.stopped()
        assert code == 0, stderr
        assert expected_alerts(config, second) == []
        assert sorted(server.ids()) == sorted(wanted)
    finally:
        server.close()


def test_a_pipeline_shows_its_alerts_and_sends_a_test(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    port, audit, metrics = free_port(), tmp_path / "audit.jsonl", free_port()
    with web_server() as server:
        more = f"[audit]\nfile = '{audit}'\n[metrics]\nport = {metrics}\n"
        to = f"http://box:{SECRET}@127.0.0.1:{server.port}/{SECRET}?key={SECRET}"
        config = alert_config(tmp_path, to, more)
        with config.open("a") as file:
            file.write(
                f"\n[[alerts]]\nname = 'broken'\nlabel = 'sad'\nthreshold = 1.0\n"
                f"to = ['http://:{SECRET}@127.0.0.1:{port}/{SECRET}', "
                f"\"command:sh -c 'echo no {SECRET} >&2; exit 1'\"]\n"
                "[[alerts.quiet_hours]]\nbegin = '00:00'\nend = '12:00'\n"
                "[[alerts.quiet_hours]]\nbegin = '12:00'\nend = '00:00'\n"
            )
        running = supervise(f"--config={config}", f"--source=file:{clip(5.0, repeat=40)}")
        pid = str(running.process.pid)
        running.subscriber.wait_for(
            lambda r: bool(r.fresh(public.Health)) and counters(r).get("alerts_delivered", 0) > 0
        )
        done = command("alerts", "--test", "angry", "--pid", pid)
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith(
            f"angry to http://127.0.0.1:{server.port}/***: delivered"
        )
        test = next(one.json for one in server.posted if one.json["test"])
        assert test["text"] == "This is a test of the alert angry. Nothing has happened."
        failed = command("alerts", "--test", "broken", "--pid", pid)
        assert failed.returncode == 1
        first, second = sorted(failed.stdout.splitlines(), key=lambda line: "command:" in line)
        assert "given up (no server answers there (connection refused))" in first
        assert second.endswith("command:sh ***: given up (exit code 1: no ***)")
        unknown = command("alerts", "--test", "nonsense", "--pid", pid)
        assert unknown.returncode == 2
        assert "configured: angry, happy, neutral, sad, loud, broken" in unknown.stderr
        listed = command("alerts", "--pid", pid)
        assert listed.returncode == 0
        lines = listed.stdout.splitlines()
        assert lines[0].startswith("angry: utterances: angry at least 0%, to http://127.0.0.1:")
        assert "loud: windows: level at least -30 dBFS" in listed.stdout
        (quiet,) = [line for line in lines if line.startswith("broken:")]
        assert "quiet until" in quiet
        with urllib.request.urlopen(
            f"http://127.0.0.1:{metrics}/metrics", timeout=PATIENCE_S
        ) as page:
            text = page.read().decode()
        assert 'sep_events_total{event="alerts_delivered"}' in text
        shown = subprocess.run(
            [sys.executable, "supervisor.py", f"--config={config}", "--print-config"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        running.process.terminate()
        code, stderr, received = running.ended()
    assert code == 0, stderr
    rows = [json.loads(line) for line in audit.read_text().splitlines()]
    assert rows[0]["alerts"]["broken"] == [f"http://127.0.0.1:{port}/***", "command:sh ***"]
    seen = [stderr, audit.read_text(), shown.stdout, text, str(received.messages)]
    for output in (done, failed, listed):
        seen += [output.stdout, output.stderr]
    assert "alerts" in shown.stdout
    assert not [part for part in seen if SECRET in part]
    stored = (tmp_path / "alerts.sqlite").read_bytes()
    assert SECRET.encode() not in stored


def test_a_hung_server_delays_neither_others_nor_the_end(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    out, script = tmp_path / "out", tmp_path / "note"
    script.write_text(f'#!/bin/sh\necho "$SEP_ALERT_ID" >>{out}\n')
    script.chmod(0o755)
    config = alert_config(tmp_path, f"command:{script}")
    config.write_text(config.read_text().replace("to = [", "to = ['command:sleep 20', "))
    running = supervise(f"--config={config}", f"--source=file:{clip(9.0, repeat=20)}")
    wait_until(lambda: out.exists() and len(out.read_text().split()) >= 3, "three alerts")
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    assert "wait in the outbox" in stderr
    with Outbox(tmp_path / "alerts.sqlite") as outbox:
        waiting = [one for one in outbox.deliveries() if one.state == WAITING]
    addresses = {one.address for one in waiting}
    other = parse_address(f"command:{script}").key
    assert addresses - {other} == {parse_address("command:sleep 20").key}
    kept = {one.alert.id for one in waiting if one.address == other}
    assert kept | set(out.read_text().split()) == set(expected_alerts(config, received))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('label = "bored"\nto = "command:true"', ["'anger'", "'bored'", "angry, happy"]),
        ('label = "angry"\nto = "command:true"', ["cannot be used as outbox"]),
    ],
)
def test_a_mistake_is_one_line(
    supervise: Supervise, clip: Clip, tmp_path: Path, row: str, words: list[str]
) -> None:
    config = tmp_path / "box.toml"
    config.write_text(f'[[alerts]]\nname = "anger"\n{row}\n[outbox]\nfile = "{tmp_path}"\n')
    code, stderr, _ = supervise(f"--config={config}", f"--source=file:{clip(2.0)}").ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert all(word in line for word in words), line


def test_a_pipeline_without_rules_has_no_alerts(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(5.0, repeat=10)}")
    running.subscriber.wait_for(lambda r: bool(r.fresh(public.Result)))
    assert "alerts" not in running.stages()
    done = command("alerts", "--pid", str(running.process.pid))
    assert done.returncode == 2
    assert "add [[alerts]]" in done.stderr
    running.process.send_signal(signal.SIGTERM)
    assert running.ended()[0] == 0
