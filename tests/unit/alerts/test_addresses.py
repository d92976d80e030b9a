"""Addresses of alerts: their syntax, and that no secret of one is shown anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from speech_emotion.common.alert_address import parse_address, shown_address
from speech_emotion.common.config.load import load_config, to_toml, without_secrets
from speech_emotion.common.errors import UserError

SHOWN = {
    "https://example.org": "https://example.org",
    "https://u:pa55-pa55@example.org:8443/pa55/hook?key=pa55": "https://example.org:8443/***",
    "http://[::1]:80/pa55-pa55": "http://[::1]/***",
    "ntfy+https://ntfy.sh/pa55-pa55": "ntfy+https://ntfy.sh/***",
    "ntfy+http://:pa55-token@127.0.0.1:2586/pa55": "ntfy+http://127.0.0.1:2586/***",
    "smtps://box%40example.org:pa55-pa55@mail.example.org/me@example.org": (
        "smtps://mail.example.org/me@example.org?from=box@example.org"
    ),
    "smtp://localhost:25/me@example.org?from=box@example.org": (
        "smtp://localhost:25/me@example.org?from=box@example.org"
    ),
    "mqtts://box:pa55-pa55@broker.example.org/sep/alerts": "mqtts://broker.example.org/sep/alerts",
    "command:/usr/bin/lamp --token pa55-pa55 red": "command:/usr/bin/lamp ***",
    "command:'/opt/my lamp'": "command:'/opt/my lamp'",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items())
def test_an_address_is_shown_without_its_secrets(text: str, shown: str) -> None:
    address = parse_address(text)
    assert address.shown == shown_address(text) == shown
    assert "pa55" not in shown + repr(address)
    assert parse_address(shown).shown == shown  # so a configuration that is shown is valid
    assert "pa55-pa55" not in address.without_secrets(f"cannot open {text}")


def test_another_password_is_the_same_address() -> None:
    """So what waits in the outbox is delivered after the password was mended."""
    old, new = (parse_address(f"mqtt://box:{word}@broker/alerts") for word in ("old", "new"))
    assert old.key == new.key
    assert old.password != new.password
    assert old.key != parse_address("mqtt://box:new@broker/others").key
    assert parse_address("command:lamp red").key != parse_address("command:lamp blue").key


def test_a_token_within_an_argument_is_hidden_as_well() -> None:
    address = parse_address("command:sh -c 'lamp --key=pa55-pa55 red' x")
    text = "lamp: no red light for pa55-pa55"
    assert address.without_secrets(text) == "lamp: no red light for ***"


def test_credentials_and_usual_ports() -> None:
    mail = parse_address("smtp://box%40a.org:p%2Fw@mail.org/me@b.org")
    assert (mail.user, mail.password, mail.port, mail.tls) == ("box@a.org", "p/w", 587, False)
    assert (mail.sender, mail.target) == ("box@a.org", "me@b.org")
    assert parse_address("smtps://mail.org/me@b.org").sender == "me@b.org"
    assert parse_address("smtps://mail.org/me@b.org").port == 465
    broker = parse_address("mqtts://broker/a/b%20c")
    assert (broker.port, broker.target, broker.tls) == (8883, "a/b c", True)
    assert parse_address("command:lamp 'dark red'").words == ("lamp", "dark red")


@pytest.mark.parametrize(
    "text",
    [
        *("", "pa55", "https://", "https:///pa55", "https://h:0/pa55", "https://h:70000/pa55"),
        *("https://h/pa55 pa55", "https://h/pa55\n", "ftp://h/pa55", "ntfy+https://h/"),
        *("ntfy+https://h/a/b", "ntfy+https://h/pa55!", "smtp://u:pa55@h/nobody", "smtp://h/"),
        *("smtp://u:pa55@h/a@b,c@d", "smtp://h/ä@b.org", "smtp://h/a@b%0Ac@d?from=pa55"),
        *("mqtt://u:pa55@h/", "mqtt://h/a/#", "mqtt://h/+/b", "command:", "command:lamp 'pa55"),
        *("https://u:hu#sh@h/", "https://u:hu/sh@h/"),
    ],
)
def test_a_mistake_is_one_line_without_secrets(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_address(text)
    assert "pa55" not in str(caught.value).replace(f"'{text}'", "") or text == "pa55"
    assert len(str(caught.value).splitlines()) == 1
    assert "pa55" not in shown_address(text) or text == "pa55"


def test_the_shown_configuration_has_no_secret_and_is_valid(tmp_path: Path) -> None:
    row = {"name": "anger", "label": "angry", "to": list(SHOWN), "cool_down_s": 5.0}
    config = load_config(None, {"alerts": [row]})
    shown = to_toml(without_secrets(config))
    assert "pa55" not in shown
    path = tmp_path / "box.toml"
    path.write_text(shown)
    assert load_config(path, {}).alerts[0].to == tuple(SHOWN.values())
    path.write_text(to_toml(config))
    assert load_config(path, {}) == config


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, ["alerts.0.name", "missing"]),
        ({"name": "a", "label": "angry"}, ["alerts.0.to", "missing"]),
        ({"name": "A b", "to": "command:true", "label": "x"}, ["alerts.0.name", "a-z"]),
        ({"name": "a", "to": [], "label": "x"}, ["alerts.0.to", "at least 1"]),
        ({"name": "a", "to": "command:true"}, ["alerts.0", "either label or dimension"]),
        (
            {"name": "a", "to": "command:true", "label": "x", "dimension": "level"},
            ["alerts.0", "either label or dimension"],
        ),
        ({"name": "a", "to": "command:true", "dimension": "volume"}, ["dimension", "'level'"]),
        (
            {"name": "a", "to": "command:true", "dimension": "level", "threshold": 0.5},
            ["threshold = 0.5", "-100 to 0"],
        ),
        (
            {"name": "a", "to": "command:true", "label": "x", "threshold": -3},
            ["threshold = -3", "0 to 1"],
        ),
        (
            {"name": "a", "to": "command:true", "label": "x", "release": 0.5},
            ["release", "windows"],
        ),
        (
            {
                "name": "a",
                "to": "command:true",
                "label": "x",
                "watch": "windows",
                "threshold": 0.5,
                "release": 0.7,
            },
            ["release = 0.7", "0 to threshold"],
        ),
        (
            {"name": "a", "to": "command:true", "label": "x", "stream": "hall"},
            ["'a'", "'hall'", "main"],
        ),
        ({"name": "a", "to": "https://u:pa55@", "label": "x"}, ["alerts.0.to", "HOST"]),
        (
            {
                "name": "a",
                "to": "command:true",
                "label": "x",
                "quiet_hours": [{"begin": "22:00", "end": "25:00"}],
            },
            ["alerts.0.quiet_hours.0.end", "25:00"],
        ),
        ({"name": "a", "to": "command:true", "label": "x", "sound": 1}, ["sound", "cool_down_s"]),
    ],
)
def test_a_mistake_in_a_rule_names_key_and_remedy(row: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, {"alerts": [row]})
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert all(word in line for word in words), line
    assert "pa55" not in line


def test_names_differ_and_defaults_fit_the_kind() -> None:
    row = {"name": "a", "to": "command:true", "label": "angry"}
    with pytest.raises(UserError, match="two alerts are named 'a'"):
        load_config(None, {"alerts": [row, row]})
    loud = {"name": "b", "to": "command:true", "dimension": "level", "threshold": -20.0}
    rules = [one.rule for one in load_config(None, {"alerts": [row, loud]}).alerts]
    assert [(one.watch, round(one.release, 6)) for one in rules] == [
        ("utterances", 0.5),
        ("windows", -23.0),
    ]
    assert rules[1].condition == "windows: level at least -20 dBFS"
