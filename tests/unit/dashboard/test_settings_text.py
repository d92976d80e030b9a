"""Values changed in the text of a configuration file: everything else stays as it is."""

from __future__ import annotations

import contextlib
import tomllib
from typing import Any

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.settings.fields import row_defaults
from speech_emotion.dashboard.settings.toml_text import changed

DEFAULTS = row_defaults()
BOX = """\
# The box in the kitchen.
sensitivity = "medium"  # try high

[[stream]]
name = "main"
source = "mic:USB"

[mute]
# Nobody is there at night.
time_zone = "Europe/Berlin"

[[mute.quiet_hours]]
begin = "22:00"  # after the news
end = "06:00"

[history]
file = "h.sqlite"
days = 14.0  # two weeks

# Tell the nurse.
[[alerts]]
name = "angry"
label = "angry"
threshold = 0.6
to = "https://u:pa55@h.example/x"  # one address

[[alerts]]
name = "loud"
dimension = "level"
threshold = -20
to = ["https://h.example/y"]
"""
ANGRY = {"name": "angry", "label": "angry", "to": ["https://u:pa55@h.example/x"], "threshold": 0.6}
LOUD = {"name": "loud", "dimension": "level", "to": ["https://h.example/y"], "threshold": -20}
UNSET: dict[str, Any] = {"release": None, "stream": None, "cool_down_s": 300, "quiet_hours": []}


def test_a_value_is_changed_in_its_line() -> None:
    text = changed(BOX, {"history.days": 7, "sensitivity": "high"}, DEFAULTS)
    assert text == BOX.replace("14.0  #", "7  #").replace('"medium"  #', '"high"  #')
    assert changed(BOX, {"history.days": 14}, DEFAULTS) == BOX


def test_a_new_key_and_a_removed_one() -> None:
    text = changed(BOX, {"mute.time_zone": None, "review.hours": 3, "prosody": True}, DEFAULTS)
    expected = BOX.replace('time_zone = "Europe/Berlin"\n', "").splitlines()
    left = [line for line in text.splitlines() if line not in expected]
    assert left == ["prosody = true", "[review]", "hours = 3"]
    assert [line for line in expected if line not in text.splitlines()] == []


def test_rows_keep_their_comments_and_get_no_defaults() -> None:
    rules = [{**LOUD, **UNSET, "threshold": -15}, {**ANGRY, **UNSET}]
    text = changed(BOX, {"alerts": rules}, DEFAULTS)
    assert text == BOX.replace("threshold = -20", "threshold = -15")
    renamed = changed(BOX, {"alerts": [{**ANGRY, **UNSET, "name": "anger"}, LOUD]}, DEFAULTS)
    assert renamed == BOX.replace('name = "angry"', 'name = "anger"')


def test_a_row_is_added_and_one_removed() -> None:
    quiet = [{"begin": "12:00", "end": "13:00", "days": ["sat", "sun"]}]
    new = {"name": "sad", "label": "sad", "to": ["ntfy+https://n.example/t"], "quiet_hours": quiet}
    text = changed(BOX, {"alerts": [ANGRY, LOUD, {**UNSET, **new}]}, DEFAULTS)
    assert text.startswith(BOX)
    assert text.removeprefix(BOX) == (
        '\n[[alerts]]\nname = "sad"\nlabel = "sad"\nto = ["ntfy+https://n.example/t"]\n\n'
        '[[alerts.quiet_hours]]\nbegin = "12:00"\nend = "13:00"\ndays = ["sat", "sun"]\n\n'
    )
    fewer = changed(text, {"alerts": [ANGRY, {**UNSET, **new}]}, DEFAULTS)
    assert [row["name"] for row in tomllib.loads(fewer)["alerts"]] == ["angry", "sad"]
    assert "# Tell the nurse." in fewer
    none = changed(text, {"alerts": [], "mute.quiet_hours": []}, DEFAULTS)
    table = tomllib.loads(none)
    assert "alerts" not in table
    assert table["mute"] == {"time_zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alerts = []\n",
        'mute.time_zone = "UTC"\n',
        "mute = {close_device = false}\n",
        'history = {days = 3}\nalerts = [{name = "a", label = "sad", to = "https://h/"}]\n',
        '[[stream]]\nsource = "mic"\n[mute]\n[x.y]\nz = 1 # odd\n[mute.w]\n',
        "\r\n[history]\r\ndays = 9 # d\r\n",
    ],
)
def test_any_form_of_a_file(text: str) -> None:
    changes: dict[str, Any] = {
        "history.days": 7,
        "mute.quiet_hours": [{"begin": "01:00", "end": "02:00"}],
        "alerts": [ANGRY, LOUD],
        "sensitivity": "low",
    }
    table = tomllib.loads(changed(text, changes, DEFAULTS))
    assert table["history"]["days"] == 7
    assert table["mute"]["quiet_hours"] == changes["mute.quiet_hours"]
    assert [row["name"] for row in table["alerts"]] == ["angry", "loud"]
    assert table["sensitivity"] == "low"
    for key, value in tomllib.loads(text).items():
        if key not in ("alerts", "history"):
            assert table[key] == {**table[key], **value} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    "changes",
    [
        {"alerts": [{"name": "\ud800"}]},
        {"alerts": [None, 5]},
        {"alerts": [{"to": {"a": [None]}}]},
        {"mute.quiet_hours": float("nan")},
        {"history.days": [[[]]]},
        {"sensitivity": {"": None}},
    ],
    ids=str,
)
def test_odd_values_are_refused_or_written_as_they_are(changes: dict[str, Any]) -> None:
    with contextlib.suppress(UserError):
        tomllib.loads(changed(BOX, changes, DEFAULTS))


def test_a_broken_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"history.days: cannot be changed here"):
        changed("history = {", {"history.days": 1}, DEFAULTS)
