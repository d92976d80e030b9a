"""The configuration: what goes over what, and what a mistake says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_emotion.common.config.load import load_config, to_toml, without_secrets
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import UserError
from tests.support.pipelines import ROOT
from tools import config_reference as reference


def written(folder: Path, text: str) -> Path:
    path = folder / "box.toml"
    path.write_text(text)
    return path


def test_flags_go_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(
        tmp_path,
        'results = "tcp://127.0.0.1:1"\nspeed = "max"\nruntime = "litert"\n[ring]\nseconds = 40',
    )
    monkeypatch.setenv("SEP_RESULTS", "tcp://127.0.0.1:2")
    monkeypatch.setenv("SEP_SPEED", "realtime")
    monkeypatch.setenv("SEP_RING__SECONDS", "50")
    config = load_config(path, {"results": "tcp://127.0.0.1:3"})
    assert config.results == "tcp://127.0.0.1:3"
    assert config.speed == "realtime"
    assert config.ring.seconds == 50.0
    assert config.runtime == "litert"


streams = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.from_regex("[a-z0-9_-]{1,40}", fullmatch=True),
            "source": st.text("abö '\"\\\t#", min_size=1).map("file:{}".format),
            "channel": st.none()
            | st.integers(0, 63)
            | st.lists(st.integers(0, 63), min_size=1, unique=True),
        }
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda stream: str(stream["name"]),
)
settable = {
    "results": st.sampled_from(
        ["tcp://127.0.0.2:0", "tcp://[::1]:65535", "ipc:///tmp/ö", "ipc://a"]
    ),
    "runtime": st.sampled_from(["auto", "litert", "tflite"]),
    "ring": st.fixed_dictionaries({"seconds": st.floats(2.5, 3600.0)}),
    "stream": streams,
}


@given(st.fixed_dictionaries({}, optional=settable))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_effective_configuration_gives_itself_again(
    tmp_path: Path, flags: dict[str, Any]
) -> None:
    config = load_config(None, flags)
    assert load_config(written(tmp_path, to_toml(config)), {}) == config


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"resluts": 1}, ["resluts", "results"]),
        ({"ring": {"seconds": "long"}}, ["ring.seconds", "'long'", "number"]),
        ({"capture": {"block_frames": 0}}, ["capture.block_frames", "0", "1"]),
        ({"speed": "fast"}, ["speed", "'fast'", "'max'"]),
        ({"results": "tcp://127.0.0.1:70000"}, ["results", "70000", "65535"]),
        ({"stream": [{"source": "file:x", "name": "A"}]}, ["stream.0.name", "'A'", "a-z"]),
        ({"stream": [{"source": "radio"}]}, ["stream.0.source", "'radio'", "file:PATH"]),
        ({"stream": [{"source": "file:x", "volume": 3}]}, ["stream.0.volume", "channel"]),
        ({"stream": {"source": "file:x"}}, ["stream", "file:x", "rows of [[stream]]"]),
        ({"stream": [5]}, ["stream.0", "5", "a table"]),
        ({"stream": [{"source": "file:x", "channel": 64}]}, ["stream.0.channel", "64", "63"]),
        ({"stream": [{"source": "mic", "channel": [1, 1]}]}, ["stream.0.channel", "[1, 1]", "63"]),
        ({"stream": [{"source": "mic", "channel": []}]}, ["stream.0.channel", "[]", "63"]),
        ({"stream": [{"source": "file:x", "mix": "flip"}]}, ["stream.0", "flip", "live source"]),
        ({"stream": [{"source": f"file:{n}"} for n in range(513)]}, ["stream", "at most 512 rows"]),
        ({"stream": [{"name": "a"}]}, ["stream.0.source", "missing"]),
        ({"stream": [{"source": "file:x"}, {"source": "file:y"}]}, ["'main'", "must differ"]),
        ({"ring": 30}, ["ring", "30", "a table"]),
        ({"ring": {"seconds": float("nan")}}, ["ring.seconds", "nan"]),
        ({"bundle": 5}, ["bundle", "5", "a path"]),
        ({"results": "ipc:///tmp/a\0b"}, ["results", "'ipc:///tmp/a\\x00b'", "ipc://PATH"]),
        ({"results": "ipc:///tmp/\udc80"}, ["results", "udc80", "ipc://PATH"]),
        ({"results": "127.0.0.1:5555"}, ["results", "'127.0.0.1:5555'", "tcp://ADDRESS:PORT"]),
        ({"results": "x" * 5000 + "\n"}, ["results", "ipc://PATH"]),
        ({"a\nb": 1}, ["'a\\nb'", "results"]),
        ({"dashboard": {"listen": "8765"}}, ["dashboard.listen", "'8765'", "HOST:PORT"]),
        ({"dashboard": {"listen": "0.0.0.0:8765"}}, ["0.0.0.0:8765", "dashboard.token"]),
        ({"dashboard": {"listen": "[::]:8765"}}, ["[::]:8765", "dashboard.token"]),
        ({"dashboard": {"port": 1}}, ["dashboard.port", "listen"]),
        ({"metrics": {"port": 9, "address": "0.0.0.0"}}, ["0.0.0.0", "metrics.token"]),
        ({"history": {"days": 0}}, ["history.days", "0", "greater than 0"]),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(
    flags: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_config(None, flags)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SEP_REUSLTS", "x", ["SEP_REUSLTS", "results"]),
        ("SEP_RING_SECONDS", "40", ["SEP_RING_SECONDS", "ring"]),
        ("SEP_RING__SECONDS", "1", ["SEP_RING__SECONDS", "ring.seconds", "2.5"]),
        ("SEP_RING__SECOND", "40", ["SEP_RING__SECOND", "ring.second", "seconds"]),
        ("SEP_SPEED", "warp", ["SEP_SPEED", "'warp'", "'max'"]),
        ("SEP_STREAM", "{", ["SEP_STREAM", "JSON"]),
        ("SEP_STREAM", '[{"source": "radio"}]', ["SEP_STREAM", "stream.0.source", "file:PATH"]),
    ],
)
def test_a_mistake_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        load_config(None, {})
    assert all(word in str(caught.value) for word in words)


def test_a_mistake_is_looked_for_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = written(tmp_path, "speed = 'max'\n[ring]\nseconds = 40")
    assert str(good) not in outcome(good, {"speed": "warp"})
    monkeypatch.setenv("SEP_RING__SECONDS", "long")
    assert str(good) not in outcome(good, {})
    monkeypatch.delenv("SEP_RING__SECONDS")
    monkeypatch.setenv("SEP_SPEED", "realtime")
    bad = written(tmp_path, "[ring]\nseconds = 'long'")
    assert outcome(bad, {"runtime": "auto"}).startswith(f"{bad}: ring.seconds = 'long'")


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "a = " + "9" * 5000])
def test_a_file_beyond_what_a_parser_takes_is_no_toml(tmp_path: Path, content: str) -> None:
    assert "is not valid TOML" in outcome(written(tmp_path, content), {})


toml_values = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def outcome(path: Path | None, flags: dict[str, Any]) -> str:
    """The line of the mistake, or nothing."""
    try:
        load_config(path, flags)
    except UserError as error:
        return str(error)
    return ""


@given(
    st.dictionaries(
        st.sampled_from([*Config.model_fields, "other"]) | st.text(max_size=4), toml_values
    )
)
def test_any_table_is_a_configuration_or_one_line(table: dict[str, Any]) -> None:
    line = outcome(None, table)
    assert "\n" not in line
    assert line or table.keys() <= Config.model_fields.keys()


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_a_configuration_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    line = outcome(path, {})
    assert "\n" not in line
    assert not line or str(path) in line


def test_a_token_that_is_too_short_is_not_shown() -> None:
    line = outcome(None, {"dashboard": {"listen": "0.0.0.0:1", "token": "pa55-pa55"}})
    assert "dashboard.token" in line
    assert "pa55" not in line
    assert not outcome(None, {"dashboard": {"listen": "0.0.0.0:1", "token": "x" * 16}})


def test_the_reference_is_that_of_the_types() -> None:
    page = (ROOT / "docs" / "CONFIGURATION.md").read_text()
    assert page == reference.page(), "run: python -m tools.config_reference > docs/CONFIGURATION.md"
    for name, field in Config.model_fields.items():
        assert f"`{name}`" in page or f"`[{name}]`" in page or f"`[[{name}]]`" in page
        assert field.description or "[" + name in page


def test_the_example_is_a_configuration() -> None:
    config = load_config(ROOT / "examples" / "box.toml", {})
    assert [stream.name for stream in config.stream] == ["kitchen", "hall"]


def test_a_shown_configuration_hides_the_secret_and_is_valid(tmp_path: Path) -> None:
    token = {"token": "pa55-pa55-pa55-pa55"}
    config = load_config(None, {"dashboard": token, "metrics": token})
    shown = to_toml(without_secrets(config))
    assert "pa55" not in shown
    assert load_config(written(tmp_path, shown), {}).dashboard.token != config.dashboard.token
    assert without_secrets(load_config(None, {})) == load_config(None, {})


def test_a_tilde_in_a_path_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    path = written(
        tmp_path,
        "bundle = '~/b'\nrecord = '~/r'\n[history]\nfile = '~/h.sqlite'\n"
        "[curve]\nsecret = '~/box.key_secret'\nallowed = '~/keys'\n"
        "[[stream]]\nsource = 'file:~/talk.flac'",
    )
    config = load_config(path, {})
    home = Path("/home/someone")
    assert config.bundle == home / "b"
    assert config.record == home / "r"
    assert config.history.file == home / "h.sqlite"
    assert (config.curve.secret, config.curve.allowed) == (home / "box.key_secret", home / "keys")
    assert config.stream[0].source == "file:/home/someone/talk.flac"
    unknown = written(tmp_path, "bundle = '~no-such-user-here/b'")
    assert "home folder is unknown" in outcome(unknown, {})


@pytest.mark.parametrize("table", ["dashboard", "metrics"])
def test_every_token_is_hidden(table: str) -> None:
    config = load_config(None, {table: {"token": "0123456789abcdef"}})
    assert "0123456789abcdef" not in to_toml(without_secrets(config))
