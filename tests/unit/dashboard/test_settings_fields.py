"""What the page says about each setting, and which values it takes."""

from __future__ import annotations

from typing import Any

import pytest

from speech_emotion.common.config.load import ConfigError
from speech_emotion.common.config.model import Config
from speech_emotion.dashboard.settings import fields

SECRET = "https://u:pa55word@h.example/hook"
COMMAND = "command:/usr/bin/ring --pin 4711471147"
CONFIG = Config.model_validate(
    {
        "alerts": [
            {"name": "angry", "label": "angry", "to": [SECRET, COMMAND]},
            {"name": "sad", "label": "sad", "to": "https://v:other-pa55@h.example/hook"},
        ]
    }
)


def by_key(**flags: Any) -> dict[str, Any]:
    found, waiting = {}, fields.fields(flags)
    while waiting:
        one = waiting.pop()
        found[one.key] = one
        waiting += one.fields
    return found


def test_fields_are_those_of_the_configuration() -> None:
    found = by_key()
    assert {key.partition(".")[0] for key in found} <= set(Config.model_fields)
    days = found["history.days"]
    assert (days.kind, days.unit, days.default) == ("number", "days", 14.0)
    assert days.now
    assert days.description == "age in days from which entries are removed"
    assert found["sensitivity"].choices == ["low", "medium", "high"]
    assert not found["sensitivity"].now
    assert found["alerts.name"].required
    assert found["alerts.quiet_hours.days"].kind == "choices"
    assert set(fields.values(CONFIG)) == {one.key for one in fields.fields({})}


def test_what_sets_a_key_beside_the_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEP_MUTE__TIME_ZONE", "UTC")
    monkeypatch.setenv("SEP_REVIEW", "{}")
    found = by_key(sensitivity="high", history={"file": "h.sqlite"})
    assert found["sensitivity"].fixed == "--sensitivity"
    assert found["history.days"].fixed is None
    assert found["mute.time_zone"].fixed == "SEP_MUTE__TIME_ZONE"
    assert found["mute.quiet_hours"].fixed is None
    assert found["review.hours"].fixed == "SEP_REVIEW"


def test_addresses_are_shown_without_secrets_and_written_with_them() -> None:
    rules = fields.values(CONFIG)["alerts"]
    assert "pa55" not in str(rules)
    assert "4711" not in str(rules)
    back = fields.with_addresses({"alerts": rules}, CONFIG)["alerts"]
    assert [rule["to"] for rule in back] == [list(rule.to) for rule in CONFIG.alerts]
    rules[0]["name"] = "anger"  # the two rules have addresses that look the same
    rules[0]["to"].append("https://new.example/")
    back = fields.with_addresses({"alerts": rules}, CONFIG)["alerts"]
    assert back[0]["to"] == [SECRET, COMMAND, "https://new.example/"]


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("command:rm -rf /", "a command can be added in the configuration file only"),
        ("https://***@elsewhere.example/", "write the whole address"),
    ],
)
def test_an_address_that_may_not_be_added(address: str, fault: str) -> None:
    rules = [{"name": "x", "label": "sad", "to": ["https://h/", address]}]
    with pytest.raises(ConfigError, match=fault) as error:
        fields.with_addresses({"alerts": rules}, CONFIG)
    assert error.value.key == "alerts.0.to"


@pytest.mark.parametrize("rules", [5, None, [5], [{"name": []}], [{"to": [5, None]}]])
def test_what_is_no_rule_is_left_for_the_check(rules: object) -> None:
    assert fields.with_addresses({"alerts": rules}, CONFIG) == {"alerts": rules}
