"""The client and its command beside a real pipeline."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from speech_emotion.common.client.results import GONE_AFTER_S, Freshness, Results, Status
from tests.support.pipelines import (
    PATIENCE_S,
    ROOT,
    Running,
    feed,
    fresh_endpoint,
    wait_until,
)
from tests.support.publisher import Publisher, result

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def until(client: Results, state: Freshness) -> list[Status]:
    """Read until the client has this state; every status meanwhile, the newest last."""
    statuses: list[Status] = []

    def turn() -> bool:
        client.receive(0.05)
        statuses.append(client.status())
        return statuses[-1].state is state

    wait_until(turn, f"the client to say {state.value}")
    return statuses


def test_freshness_of_a_real_pipeline(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=4)}")
    with Results(running.endpoint, "main", timeout=PATIENCE_S) as client:
        assert client.status().state is Freshness.GONE
        assert until(client, Freshness.FRESH)[-1].reason is None
        assert client.info["main"].hop > 0

        # A stage that does not run again and again: results get old, health names the cause.
        running.stages()["features"].suspend()
        statuses = until(client, Freshness.STALE) + until(client, Freshness.FRESH)
        assert any("features" in (status.reason or "") for status in statuses)

        # The whole publisher stands still, and goes on.
        running.process.send_signal(signal.SIGSTOP)
        gone = until(client, Freshness.GONE)[-1]
        assert gone.reason == f"no message for {GONE_AFTER_S:g} s"
        assert gone.age_s is None
        running.process.send_signal(signal.SIGCONT)
        until(client, Freshness.FRESH)
        assert client.lost == {"main": 0}

        # It dies, and another one takes its place.
        running.process.kill()
        until(client, Freshness.GONE)
        before = client.info["main"].run
        again = supervise(f"--source=file:{clip(50.0)}", f"--results={running.endpoint}")
        until(client, Freshness.FRESH)
        assert client.info["main"].run != before
        assert client.lost == {"main": 0}
        again.process.send_signal(signal.SIGTERM)
        assert again.ended()[0] == 0


def test_a_pipeline_that_has_ended_is_not_fresh(supervise: Supervise, clip: Clip) -> None:
    first, second = clip(2.5, name="short"), clip(50.0)
    running = supervise(f"--source=file:{first}", f"--source=file:{second}")
    with Results(running.endpoint, timeout=PATIENCE_S) as client:
        heard = set[str]()
        while heard != {"main", "main-2"}:
            heard.add(next(iter(client)).stream)
        ended = Status(Freshness.STALE, "stream main has ended")

        def told_apart() -> bool:
            client.receive(0.05)
            both = [client.status(name) for name in (None, "main", "main-2")]
            states = [dataclasses.replace(status, age_s=None) for status in both]
            return states == [ended, ended, Status(Freshness.FRESH)]

        wait_until(told_apart, "the end of the first stream")
        running.process.send_signal(signal.SIGTERM)
        assert running.ended()[0] == 0
        until(client, Freshness.GONE)
        assert client.lost == {"main": 0, "main-2": 0}


GONE = f"subscribe: gone: no message for {GONE_AFTER_S:g} s\n"


def subscribe(*flags: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "speech_emotion", "subscribe", *flags],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_the_command_prints_every_message_and_ends_with_ctrl_c(
    supervise: Supervise, clip: Clip
) -> None:
    endpoint = fresh_endpoint()
    json_lines = subscribe("--endpoint", endpoint, "--json")
    human_lines = subscribe("--endpoint", endpoint, "--stream=main")
    # Both wait for it.
    for process in (json_lines, human_lines):
        assert "no message" in process.stderr.readline()  # type: ignore[union-attr]
    samples, rate = soundfile.read(clip(6.3), dtype="int16")
    source = f"--source=stdin:{rate}"
    running = supervise(source, f"--results={endpoint}", stdin=subprocess.PIPE)
    for process in (json_lines, human_lines):  # until both are connected there is no sound
        while (line := process.stderr.readline()).startswith("subscribe: gone"):  # type: ignore
            pass
        assert line.startswith("subscribe: stale")
    feed(running, samples.tobytes())
    running.process.stdin.close()  # type: ignore[union-attr]
    code = running.process.wait(PATIENCE_S)
    assert code == 0
    outputs = []
    for process in (json_lines, human_lines):
        reported = list(iter(process.stderr.readline, GONE))  # type: ignore[union-attr]
        assert "subscribe: fresh\n" in reported
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, stderr) == (0, "")
        outputs.append(stdout)

    rows = [json.loads(line) for line in outputs[0].splitlines()]
    assert {row["topic"] for row in rows} == {
        "result/main",
        "utterance/main",
        "info/main",
        "health",
    }
    results = [row for row in rows if row["topic"] == "result/main" and "replay" not in row]
    assert [row["seq"] for row in results] == list(range(len(results)))
    utterances = [row for row in rows if row["topic"] == "utterance/main" and "replay" not in row]
    lines = outputs[1].splitlines()
    assert len(lines) == len(results) + len(utterances) + 1
    assert lines[0].startswith("main  stdin:")
    for line, row in zip([x for x in lines[1:] if "utterance" not in x], results, strict=True):
        assert f"{row['end'] / row['rate']:.1f} s  {row['emotion'] or row['state']}" in line


@pytest.mark.parametrize("talkative", [True, False])
def test_the_command_ends_when_its_reader_has_gone(
    publisher: tuple[Publisher, str], talkative: bool
) -> None:
    sender, endpoint = publisher
    reading, writing = os.pipe()
    process = subscribe("--endpoint", endpoint, stdout=writing)
    os.close(writing)
    sender.wait_for()
    sender.send(result(0))
    assert os.read(reading, 100).startswith(b"main")
    os.close(reading)
    if talkative:
        sender.send(result(1))
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert all(line.startswith("subscribe: ") for line in stderr.splitlines())


def test_the_command_reports_losses_and_a_newer_publisher(
    publisher: tuple[Publisher, str],
) -> None:
    sender, endpoint = publisher
    process = subscribe("--endpoint", endpoint)
    sender.wait_for()
    sender.send(result(0))
    sender.send(result(5))
    sender.send(result(6), v=2)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "subscribe: lost between the pipeline and this program: 4 windows" in stderr
    assert "protocol version 2 is newer" in stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "flags", [("--endpoint", "nonsense"), ("--endpoint", "tcp://h:99999"), ("--what",)]
)
def test_a_mistake_on_the_command_line_is_one_line(flags: tuple[str, ...]) -> None:
    stdout, stderr = (process := subscribe(*flags)).communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout, len(stderr.splitlines())) == (2, "", 1)
