"""The configuration: what goes over what, and what a mistake says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.config import Config, load_config, to_toml
from common.errors import UserError


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


def test_the_effective_configuration_gives_itself_again(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, "[[stream]]\nname = 'a'\nsource = 'file:x.wav'\nchannel = 1"), {}
    )
    again = load_config(written(tmp_path, to_toml(config)), {})
    assert again == config


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
        ("SEP_RING__SECONDS", "1", ["ring.seconds", "2.5"]),
        ("SEP_STREAM", "{", ["stream"]),
    ],
)
def test_a_mistake_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        load_config(None, {})
    assert all(word in str(caught.value) for word in words)


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


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "other"]), toml_values))
def test_any_table_is_a_configuration_or_one_line(table: dict[str, Any]) -> None:
    line = outcome(None, table)
    assert "\n" not in line
    assert line or "other" not in table


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_file_is_a_configuration_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    line = outcome(path, {})
    assert "\n" not in line
    assert not line or str(path) in line
