"""The ledger of a watched folder: each recording once, also after cuts and full disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from speech_emotion.capture.sources.watch import LEDGER, Ledger, Recording

ONE, TWO = Recording("one.wav", 44, 1), Recording("two.wav", 44, 2)


def test_a_line_that_was_cut_costs_no_other_line(tmp_path: Path) -> None:
    Ledger(tmp_path, "main", "a").write(ONE, done=[0, 9])
    path = tmp_path / LEDGER
    path.write_bytes(path.read_bytes() + b'{"stream": "main", "ru')  # killed while it wrote
    ledger = Ledger(tmp_path, "main", "b")
    assert ledger.write(TWO, done=[9, 18])
    assert Ledger(tmp_path, "main", "c").known == {ONE, TWO}


def test_a_ledger_that_cannot_be_written_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, path = Ledger(tmp_path, "main", "a"), tmp_path / LEDGER
    path.unlink()
    path.mkdir()
    assert not ledger.write(ONE, begin=0)
    assert not ledger.write(ONE, begin=0)
    assert ledger.open == {}
    assert len(caplog.messages) == 1
    path.rmdir()
    assert ledger.write(ONE, begin=0)
    assert ledger.open == {ONE: 0}


def test_an_interrupted_recording_goes_on_in_its_own_run_only(tmp_path: Path) -> None:
    Ledger(tmp_path, "main", "a").write(ONE, begin=7)
    assert Ledger(tmp_path, "main", "a").open == {ONE: 7}
    assert Ledger(tmp_path, "main", "b").open == {}
    assert Ledger(tmp_path, "other", "a").open == {}
