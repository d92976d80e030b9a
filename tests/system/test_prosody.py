"""Prosody in a running pipeline: live equals offline under kills; tables and history keep it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from speech_emotion import Pipeline, Utterance
from speech_emotion.common.wire import public
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    PATIENCE_S,
    ROOT,
    Running,
    comparable,
    offline,
)


def test_live_equals_offline_with_stages_killed(
    supervise: Callable[..., Running], clip: Callable[..., Path]
) -> None:
    path = clip(50.0, repeat=20)
    running = supervise(f"--source=file:{path}", "--speed=max", "--prosody")
    killed = 0
    for stage in ("features", "infer"):
        running.await_results(1)
        killed += running.kill_stage(stage)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert killed
    assert received.stream() == offline(path, BUNDLE, "--prosody")
    utterances = received.fresh(public.Utterance)
    assert all(u.prosody is not None and u.prosody.f0_hz for u in utterances)
    assert len({u.prosody.f0_hz for u in utterances}) > 5


def test_tables_and_the_history_keep_it(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from speech_emotion.commands.export.source import _of_history
    from speech_emotion.dashboard.history.writer import HistoryWriter
    from speech_emotion.infer.batch.table import messages_of

    messages = list(Pipeline(BUNDLE, prosody=True)(DEMO))
    out = tmp_path / "table.parquet"
    words = ("--bundle", BUNDLE, "--out", out, "--prosody", "--jobs", "1")
    done = subprocess.run(
        [sys.executable, "-m", "infer", DEMO, *words],
        cwd=ROOT,
        timeout=PATIENCE_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kept = [comparable(message) for _, message in messages_of(pq.read_table(out))]
    assert kept == [comparable(message) for message in messages]
    writer = HistoryWriter(tmp_path / "history.db")
    writer.write([(message, 1e9 + n) for n, message in enumerate(messages)])
    writer.close()
    tracks = _of_history(tmp_path / "history.db")
    stored = [m for track in tracks for m in track.messages if isinstance(m, Utterance)]
    wanted = [m for m in messages if isinstance(m, Utterance)]
    assert len(stored) == len(wanted)
    for mine, theirs in zip(stored, wanted, strict=True):
        assert mine.prosody is not None
        assert theirs.prosody is not None
        assert vars(mine.prosody) == pytest.approx(vars(theirs.prosody), abs=1e-3)
