"""The mute by hand and its file."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.privacy.hand_mute import (
    Clocks,
    HandMute,
    default_state_file,
    load_hand_mute,
    save_hand_mute,
)

NOW = Clocks(unix=1_800_000_000.0, boot=5000.0, boot_id="this")


def later(seconds: float, *, set_by: float = 0.0) -> Clocks:
    return Clocks(NOW.unix + seconds + set_by, NOW.boot + seconds, "this")


def test_it_ends_after_its_length() -> None:
    mute = HandMute.starting(NOW, 1800.0)
    assert mute.active(later(1799.0))
    assert not mute.active(later(1800.0))
    assert HandMute.starting(NOW, None).active(later(1e9))


def test_a_clock_that_is_set_does_not_end_it_early() -> None:
    mute = HandMute.starting(NOW, 1800.0)
    assert mute.active(later(10.0, set_by=86400.0))
    assert not mute.active(later(1800.0, set_by=-86400.0))
    assert mute.ends(later(600.0, set_by=3600.0)) == NOW.unix + 1800.0 + 3600.0


def test_after_a_restart_of_the_machine_the_clock_decides() -> None:
    mute = HandMute.starting(NOW, 1800.0)
    assert mute.active(Clocks(NOW.unix + 1799.0, 20.0, "next"))
    assert not mute.active(Clocks(NOW.unix + 1800.0, 20.0, "next"))


@pytest.mark.parametrize("seconds", [None, 1800.0])
def test_the_file_keeps_it(tmp_path: Path, seconds: float | None) -> None:
    path = tmp_path / "deep" / "mute.json"
    assert load_hand_mute(path) is None
    mute = HandMute.starting(NOW, seconds)
    save_hand_mute(path, mute)
    assert load_hand_mute(path) == mute
    assert [file.name for file in path.parent.iterdir()] == ["mute.json"]
    save_hand_mute(path, None)
    save_hand_mute(path, None)
    assert load_hand_mute(path) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"until": "x"}', b"\xff\xff", b"null"])
def test_a_damaged_file_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mute.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_hand_mute(path)


def test_the_file_is_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/sep:/var/lib/other")
    assert default_state_file() == Path("/var/lib/sep/mute.json")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_file() == tmp_path / "speech-emotion" / "mute.json"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_file() == tmp_path / ".local/state/speech-emotion/mute.json"


def test_the_clocks_are_those_of_this_machine() -> None:
    clocks = Clocks.now()
    assert clocks.boot > 0.0
    assert len(clocks.boot_id) == 36
    assert clocks.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert clocks.unix == pytest.approx(time.time(), abs=60.0)


def test_the_clocks_need_no_descriptor() -> None:
    Clocks.now()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        Clocks.now()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
