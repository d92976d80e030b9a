"""A child process of the supervisor."""

from __future__ import annotations

import os
import threading

import pytest

from speech_emotion.common.stage.jobs import Job
from speech_emotion.supervision.child import Child
from tests.support.pipelines import wait_until


def test_the_last_line_is_read_although_the_supervisor_was_stopped_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job(stage="nothing", hub="ipc://nowhere", supervisor_pid=os.getpid())
    child = Child("nothing", (), job, lambda _: None)
    wait_until(lambda: child.exit_code() is not None, "the end of the child")
    assert "No module named" in (child.last_line() or "")
    waits: list[float | None] = []
    continued = threading.Event()
    monkeypatch.setattr(child, "_last", "")

    def read() -> None:
        continued.wait()
        child._last = "the cause"

    reader = threading.Thread(target=read)
    join = reader.join

    def wait(timeout: float | None = None) -> None:
        waits.append(timeout)
        if len(waits) > 1:  # the first wait has passed while the process was stopped
            continued.set()
            join(timeout)

    monkeypatch.setattr(child, "_reader", reader)
    monkeypatch.setattr(reader, "join", wait)
    reader.start()
    try:
        assert child.last_line() == "the cause"
    finally:
        continued.set()
        join()
