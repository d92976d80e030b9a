"""The examples that connect the pipeline to other programs, with the real programs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import re
import runpy
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from speech_emotion.common.config.model import Config
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_utterance
from tests.support.live_page import INFO
from tests.support.pipelines import PATIENCE_S, ROOT, Running, line_of
from tests.support.publisher import Publisher, health

EXAMPLES = ROOT / "examples"


Supervise = Callable[..., Running]


Clip = Callable[..., Path]


@contextlib.contextmanager
def example(name: str, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """An example program; its lines are read from its stdout."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *flags],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_alerts_are_printed_once(publisher: tuple[Publisher, str]) -> None:
    flags = ["--endpoint", publisher[1], "--emotion", "sad", "--confidence", "0.7"]
    with example("alerts.py", *flags, "--patience", "3600") as process:
        publisher[0].wait_for()
        publisher[0].send(health())
        publisher[0].send(dataclasses.replace(make_utterance(1), confidence=0.6))
        publisher[0].send(dataclasses.replace(make_utterance(2), emotion="angry"))
        for seq in range(3, 8):
            publisher[0].send(make_utterance(seq))
        assert line_of(process).endswith("main: sad, 75% sure\n")
        publisher[0].send(dataclasses.replace(make_utterance(9), stream="hall"))
        assert line_of(process).endswith("hall: sad, 75% sure\n")  # of another stream, at once


def test_a_fault_of_the_pipeline_is_an_alert(publisher: tuple[Publisher, str]) -> None:
    publisher[0].send(health())
    flags = ["--endpoint", publisher[1], "--patience", "1", "--pause", "0"]
    with publisher[0].repeating_health(), example("alerts.py", *flags) as process:
        read_until(process, "pipeline stale")  # no result ever came


def read_until(process: subprocess.Popen[str], words: str) -> None:
    """Read lines up to one with these words."""
    while words not in line_of(process):
        pass


def test_a_label_that_the_bundle_lacks_is_named(publisher: tuple[Publisher, str]) -> None:
    with example("alerts.py", "--endpoint", publisher[1], "--emotion", "furious") as process:
        publisher[0].wait_for()
        publisher[0].send(dataclasses.replace(INFO, labels=["angry", "sad"]))
        line = line_of(process)
    assert line.endswith("main: the bundle has no label 'furious'; it has angry, sad\n")


def test_alerts_of_a_real_pipeline(supervise: Supervise, clip: Clip) -> None:
    # The example may subscribe after the first sentences.
    running = supervise(f"--source=file:{clip(9.0, repeat=20)}")
    flags = ("--endpoint", running.endpoint, "--emotion", "neutral", "--confidence", "0")
    with example("alerts.py", *flags) as process:
        read_until(process, "main: neutral")
    _, _, received = running.stopped()
    assert any(one.emotion == "neutral" for one in received.fresh(public.Utterance))


def test_a_day_is_drawn(tmp_path: Path) -> None:
    path, out = tmp_path / "h.sqlite", tmp_path / "day.png"
    writer = HistoryWriter(path)
    noon = dt.datetime(2026, 3, 14, 12).astimezone().timestamp()
    spoken = [
        dataclasses.replace(make_utterance(n), time=noon + 60.0 * n, emotion=label)
        for n, label in enumerate(["angry", "sad", "uncertain", "bored", "sad"] * 20)
    ]
    writer.write([(one, 0.0) for one in spoken])
    writer.close()
    command = [sys.executable, str(EXAMPLES / "plot_day.py"), str(path), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--day", "2026-03-14"], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (0, f"{out}: 100 utterances\n"), done.stderr
    picture = out.read_bytes()
    assert picture.startswith(b"\x89PNG")
    empty = subprocess.run(
        [*command, "--day", "2026-03-15"], capture_output=True, text=True, env=environment
    )
    assert empty.stdout == f"{out}: 0 utterances\n", empty.stderr
    assert out.read_bytes() != picture
    wrong = subprocess.run(
        [*command, "--stream", "hall"], capture_output=True, text=True, env=environment
    )
    assert wrong.returncode == 2
    assert wrong.stderr == "plot_day: no stream 'hall'; the history has: main\n"


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)]
)
def test_a_day_with_a_clock_change_has_all_its_utterances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, day: str, hours: int
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        date = dt.date.fromisoformat(day)
        plot_day = runpy.run_path(str(EXAMPLES / "plot_day.py"))
        start, end = plot_day["day_bounds"](date)
        assert end - start == hours * 3600.0
        assert dt.datetime.fromtimestamp(start) == dt.datetime.combine(date, dt.time())
        path = tmp_path / "h.sqlite"
        writer = HistoryWriter(path)
        # One utterance in each half hour of three days: each day gets its own ones only.
        times = [start - 86400.0 + 900.0 + 1800.0 * n for n in range(6 * 24)]
        rows = [dataclasses.replace(make_utterance(n), time=at) for n, at in enumerate(times)]
        writer.write([(row, 0.0) for row in rows])
        writer.close()
        command = [sys.executable, str(EXAMPLES / "plot_day.py"), str(path), "--day", day]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "day.png")],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert f": {2 * hours} utterances" in done.stdout, done.stderr
    finally:
        monkeypatch.undo()
        time.tzset()


METRICS = "metrics" in Config.model_fields


def target() -> str:
    """The one address that examples/prometheus.yml scrapes."""
    (found,) = re.findall(r'targets: \["([^"]+)"\]', (EXAMPLES / "prometheus.yml").read_text())
    address: str = found
    return address


@pytest.mark.skipif(not METRICS, reason="this pipeline serves no metrics")
def test_prometheus_finds_metrics_where_the_example_looks(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    host, _, port = target().partition(":")
    config = tmp_path / "box.toml"
    config.write_text(f"[metrics]\nport = {port}\n")
    running = supervise(f"--config={config}", f"--source=file:{clip(12.0, repeat=10)}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=PATIENCE_S) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    assert any(sample.value > 0 for family in families for sample in family.samples)
    running.process.terminate()
    assert running.ended()[0] == 0
