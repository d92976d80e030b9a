"""What mutes the pipeline, and what the answers say."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech_emotion.commands.mute import seconds_of
from speech_emotion.common.config.privacy import MuteConfig, QuietHoursConfig
from speech_emotion.common.errors import UserError
from speech_emotion.common.privacy.hand_mute import Clocks
from speech_emotion.common.privacy.mute_register import MuteRegister
from speech_emotion.common.wire.control_messages import MuteSet, SetMute
from speech_emotion.common.wire.public import Mute
from speech_emotion.supervision.privacy.mute_control import OBEY_S, MuteControl

MUTE = SetMute(True, None, "test")
UNMUTE = SetMute(False, None, "test")


@pytest.fixture
def register(tmp_path: Path) -> Iterator[MuteRegister]:
    with MuteRegister(tmp_path / "register", create=True) as one:
        yield one


class Control(MuteControl):
    """One that keeps its answers and changes."""

    def __init__(self, register: MuteRegister, folder: Path, **config: object) -> None:
        self.answers: list[MuteSet] = []
        self.changes: list[Mute | None] = []
        self.late_s = 0.0
        table = MuteConfig(state=folder / "mute.json", **config)  # type: ignore[arg-type]
        super().__init__(table, register, self.changes.append, self.clocks)

    def clocks(self) -> Clocks:
        now = Clocks.now()
        return dataclasses.replace(now, unix=now.unix + self.late_s, boot=now.boot + self.late_s)

    def ask(self, request: SetMute, now: float = 100.0) -> None:
        self.request(request, now, self.answers.append)


def now_in_quiet_hours() -> QuietHoursConfig:
    """Quiet hours around the present, whatever the time."""
    now = datetime.datetime.now(datetime.UTC)
    begin, end = now - datetime.timedelta(hours=2), now + datetime.timedelta(hours=2)
    return QuietHoursConfig(begin=f"{begin:%H:%M}", end=f"{end:%H:%M}")


def test_by_hand_until_it_is_unmuted(register: MuteRegister, tmp_path: Path) -> None:
    control = Control(register, tmp_path)
    control.turn(100.0, taken=True)
    assert (control.mute, register.muted) == (None, False)
    control.ask(MUTE)
    assert register.muted
    assert control.answers == []  # capture has not obeyed yet
    control.turn(100.5, taken=True)
    assert control.answers == []
    control.turn(100.6, taken=False)
    assert control.answers == [MuteSet(0, "muted by hand; no sound is taken")]
    assert control.mute == Mute(["hand"], None, "muted by hand")
    # Another life of the supervisor.
    again = Control(register, tmp_path)
    register.set(muted=False)
    again.turn(0.0, taken=False)
    assert register.muted
    again.ask(UNMUTE)
    assert again.answers == [MuteSet(0, "unmuted: sound is taken")]
    assert not register.muted
    assert [mute and mute.by for mute in again.changes] == [["hand"], None]
    Control(register, tmp_path).turn(0.0, taken=False)
    assert not register.muted


def test_a_mute_with_an_end_ends(register: MuteRegister, tmp_path: Path) -> None:
    control = Control(register, tmp_path)
    control.ask(SetMute(True, 60.0, "test"))
    control.turn(100.0, taken=False)
    assert register.muted
    control.late_s = 61.0
    control.turn(161.0, taken=False)
    assert not register.muted
    assert not (tmp_path / "mute.json").exists()
    control.ask(SetMute(True, 1800.0, "test"))
    assert control.mute is not None
    assert control.mute.until is not None
    assert control.mute.text.startswith("muted by hand until ")
    changes = len(control.changes)
    for _ in range(100):
        control.turn(101.0, taken=False)
    assert len(control.changes) == changes
    control.ask(SetMute(True, 3600.0, "test"))
    assert len(control.changes) == changes + 1
    for seconds in (0.0, -1.0, 1e9):
        control.ask(SetMute(True, seconds, "test"))
        assert control.answers[-1].code == 1


def test_quiet_hours_and_the_switch_are_not_overruled(
    register: MuteRegister, tmp_path: Path
) -> None:
    switch = tmp_path / "value"
    switch.write_text("1\n")
    control = Control(
        register, tmp_path, switch=switch, quiet_hours=(now_in_quiet_hours(),), time_zone="UTC"
    )
    control.ask(UNMUTE)
    assert control.answers[-1].code == 1
    assert control.answers[-1].text.startswith("still muted: muted by the switch and by quiet")
    assert register.muted
    assert control.mute is not None
    assert (control.mute.by, control.mute.until) == (["switch", "quiet_hours"], None)
    switch.write_text("0\n")
    control.turn(1.0, taken=False)
    assert control.mute is not None
    assert control.mute.by == ["quiet_hours"]
    assert control.mute.until is not None
    switch.unlink()
    control.turn(2.0, taken=False)
    assert "which cannot be read" in control.mute.text


def test_a_capture_that_does_not_obey_is_reported(register: MuteRegister, tmp_path: Path) -> None:
    control = Control(register, tmp_path)
    control.ask(MUTE, 100.0)
    control.turn(100.0 + OBEY_S + 0.1, taken=True)
    assert [answer.code for answer in control.answers] == [1]


def test_a_damaged_file_mutes(register: MuteRegister, tmp_path: Path) -> None:
    (tmp_path / "mute.json").write_text("{")
    control = Control(register, tmp_path)
    control.turn(0.0, taken=False)
    assert register.muted
    control.ask(UNMUTE)
    assert not register.muted


def test_a_file_that_cannot_be_written_still_mutes(register: MuteRegister, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    control = Control(register, tmp_path / "file")
    control.turn(0.0, taken=False)
    control.ask(MUTE)
    control.turn(1.0, taken=False)
    assert control.answers[-1].code == 0
    assert "a restart forgets this" in control.answers[-1].text
    assert register.muted


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800.0), ("1h30m", 5400.0), ("90s", 90.0), ("2d", 172800.0)]
)
def test_lengths(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0s", "367d", "1.5h", "1h 30m"])
def test_malformed_lengths(text: str) -> None:
    with pytest.raises(UserError, match="--for"):
        seconds_of(text)
