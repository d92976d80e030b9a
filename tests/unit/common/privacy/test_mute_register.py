"""What capture reads: the register and the switch. Whatever cannot be read mutes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from speech_emotion.capture.mute_gate import MARGIN_S, MuteGate
from speech_emotion.common.privacy.mute_register import MuteRegister, switch_engaged
from speech_emotion.common.stage.jobs import MuteOptions


def test_it_is_muted_until_it_is_set(tmp_path: Path) -> None:
    path = tmp_path / "mute"
    with MuteRegister(path, create=True) as writer, MuteRegister(path) as reader:
        assert reader.muted
        writer.set(muted=False)
        assert not reader.muted
        path.unlink()  # both still have the file
        writer.set(muted=True)
        assert reader.muted
    with pytest.raises(FileNotFoundError):
        MuteRegister(path)


@pytest.mark.parametrize(
    ("content", "engaged"),
    [(b"1\n", True), (b"1", True), (b"0\n", False), (b"10", False), (b"\xff", False)],
)
def test_a_switch_is_engaged_at_its_value(tmp_path: Path, content: bytes, engaged: bool) -> None:
    path = tmp_path / "value"
    path.write_bytes(content)
    assert switch_engaged(path, "1") == (engaged, None)


def test_a_switch_that_cannot_be_read_is_engaged(tmp_path: Path) -> None:
    path = tmp_path / "value"
    assert switch_engaged(path, "1") == (True, f"{path}: No such file or directory")
    path.touch()
    assert switch_engaged(path, "1") == (True, f"{path}: is empty")
    assert switch_engaged(tmp_path, "1")[0]
    path.unlink()
    os.mkfifo(path)  # without a writer: reading it must not wait
    assert switch_engaged(path, "1") == (True, f"{path}: is empty")


def test_the_gate_reads_both_and_keeps_a_margin(tmp_path: Path) -> None:
    register, switch = tmp_path / "mute", tmp_path / "value"
    switch.write_text("0\n")
    with MuteRegister(register, create=True) as writer:
        with MuteGate(MuteOptions(register, switch, "1")) as gate:
            assert gate.muted(10.0)
            writer.set(muted=False)
            assert gate.muted(10.0 + MARGIN_S - 0.01)
            assert not gate.muted(10.0 + MARGIN_S)
            switch.write_text("1\n")  # no supervisor has a part in this
            assert gate.muted(11.0)
            switch.write_text("0\n")
            assert gate.muted(11.1)
            assert not gate.muted(11.0 + MARGIN_S)
            switch.unlink()
            assert gate.muted(20.0)
        switch.write_text("0\n")
        with MuteGate(MuteOptions(register, switch, "1"), latency_s=2.0) as gate:
            assert not gate.muted(30.0)
            writer.set(muted=True)
            assert gate.muted(31.0)
            writer.set(muted=False)
            assert gate.muted(33.4)
            assert not gate.muted(33.5)
    assert not MuteGate(None).muted(0.0)


def test_it_is_written_where_it_changes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    real = os.pwrite

    def counted(descriptor: int, content: bytes, offset: int) -> int:
        writes.append(content)
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    with MuteRegister(tmp_path / "mute", create=True) as register:
        for muted in (True, False, False, True, True):
            register.set(muted=muted)
            assert register.muted is muted
    assert len(writes) == 3
