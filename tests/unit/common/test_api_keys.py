"""Keys of programs: hashes in a file of the owner."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from speech_emotion.commands import api_key
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.api_keys import (
    ApiKeys,
    add_api_key,
    load_api_keys,
    remove_api_key,
)


def test_a_key_is_valid_until_it_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "state" / "keys.json"
    keys = ApiKeys(file)
    assert keys.name_of("sep_x") is None
    first, second = add_api_key(file, "panel"), add_api_key(file, "hall.2")
    assert first != second
    assert (keys.name_of(first), keys.name_of(second)) == ("panel", "hall.2")
    assert keys.name_of(first + "x") is None
    text = file.read_text()
    assert first not in text
    assert second not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]
    remove_api_key(file, "panel")
    assert (keys.name_of(first), keys.name_of(second)) == (None, "hall.2")


def test_a_file_that_cannot_be_trusted_has_no_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.json"
    key = add_api_key(file, "panel")
    keys = ApiKeys(file)
    assert keys.name_of(key) == "panel"
    good = file.read_text()
    file.chmod(0o640)
    for _ in range(3):
        assert keys.name_of(key) is None
    assert len(caplog.records) == 1
    with pytest.raises(UserError, match="chmod 600"):
        load_api_keys(file)
    file.chmod(0o600)
    assert keys.name_of(key) == "panel"
    row = json.loads(good)["keys"][0]
    for wrong in (
        "",
        "[]",
        '{"keys": 1}',
        '{"keys": [{}]}',
        json.dumps({"keys": [row | {"scope": "all"}]}),
        json.dumps({"keys": [row | {"sha256": "x"}]}),
        json.dumps({"keys": [row | {"name": "../x"}]}),
        json.dumps({"keys": [row | {"more": 1}]}),
    ):
        file.write_text(wrong)
        assert keys.name_of(key) is None, wrong
        with pytest.raises(UserError, match="damaged"):
            add_api_key(file, "other")
        assert file.read_text() == wrong  # not overwritten


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    at = ["--file", str(file)]
    assert api_key.main(["add", "panel", *at]) == 0
    key = capsys.readouterr().out.strip()
    assert ApiKeys(file).name_of(key) == "panel"
    assert api_key.main(["list", *at]) == 0
    assert capsys.readouterr().out.startswith("panel  read  20")
    for words, why in (
        (["add", "panel"], "already"),
        (["add", "a b"], "must be"),
        (["add"], "name the key"),
        (["remove", "hall"], "its keys: panel"),
    ):
        with pytest.raises(UserError, match=why):
            api_key.main([*words, *at])
    assert api_key.main(["remove", "panel", *at]) == 0
    assert load_api_keys(file) == []
