"""The last line of a child as the cause of its end."""

from __future__ import annotations

import logging

import pytest

from speech_emotion.common.stage.main import LOG_FORMAT
from speech_emotion.supervision.child import ROUTINE_LINE


@pytest.mark.parametrize(
    ("level", "routine"),
    [("DEBUG", True), ("INFO", True), ("WARNING", False), ("ERROR", False), ("CRITICAL", False)],
)
def test_a_routine_log_line_is_no_cause(level: str, routine: bool) -> None:
    number = logging.getLevelNamesMapping()[level]
    record = logging.LogRecord("infer", number, "x.py", 1, "ready: bundle x", None, None)
    line = logging.Formatter(LOG_FORMAT, "%H:%M:%S").format(record)
    assert bool(ROUTINE_LINE.match(line)) == routine
    assert not ROUTINE_LINE.match("ValueError: broken")
