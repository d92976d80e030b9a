"""Which changed settings a running pipeline takes, and which wait for the next start."""

from __future__ import annotations

from typing import Any

import pytest

from speech_emotion.common.config.model import Config
from speech_emotion.supervision.reconfiguration import differences, with_taken

ALERT = {"name": "angry", "label": "angry", "to": "https://h.example/"}
RUNNING = Config.model_validate({"alerts": [ALERT], "history": {"file": "h.sqlite"}})


def config(**changes: Any) -> Config:
    return Config.model_validate({"alerts": [ALERT], "history": {"file": "h.sqlite"}, **changes})


@pytest.mark.parametrize(
    ("changes", "taken", "waiting"),
    [
        ({}, [], []),
        ({"sensitivity": "high"}, [], ["sensitivity"]),
        ({"history": {"file": "h.sqlite", "days": 3}}, ["history.days"], []),
        ({"history": {"file": "other", "days": 3}}, ["history.days"], ["history.file"]),
        ({"mute": {"time_zone": "UTC", "switch": "/s"}}, ["mute.time_zone"], ["mute.switch"]),
        ({"alerts": []}, ["alerts.angry"], []),
        ({"alerts": [ALERT, {**ALERT, "name": "more"}]}, ["alerts.more"], []),
        ({"alerts": [{**ALERT, "threshold": 0.7}]}, ["alerts.angry"], []),
        ({"review": {"hours": 3}, "outbox": {"give_up_h": 2}}, ["review.hours"], []),
        ({"stream": [{"source": "mic:USB"}]}, [], ["stream"]),
    ],
    ids=str,
)
def test_what_is_taken_and_what_waits(
    changes: dict[str, Any], taken: list[str], waiting: list[str]
) -> None:
    wanted = config(**changes)
    now = with_taken(RUNNING, wanted)
    assert [key for key in differences(RUNNING, now) if key != "outbox.give_up_h"] == taken
    assert list(differences(now, wanted)) == waiting
    assert differences(with_taken(now, wanted), now) == {}
