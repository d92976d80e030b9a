"""The audit log: any change of a line is found, also over full files and torn ends."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.errors import UserError
from speech_emotion.common.privacy.audit_log import (
    AuditLog,
    BrokenLineError,
    make_line,
    old_files,
    read_line,
    verify,
)

T0 = 1_800_000_000.0


def written(path: Path, count: int, *, max_bytes: int = 1 << 20, keep: int = 100) -> None:
    with AuditLog(path, max_bytes=max_bytes, keep=keep) as log:
        first = log.last.n + 1 if log.last else 1
        for n in range(first, first + count):
            log.append(T0 + n, "mute", {"by": f"page at 10.0.0.{n}", "text": "ä\u202e\n"})


def test_a_log_is_whole_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    written(path, 3)
    written(path, 2)
    found = verify(path)
    assert (found.records, found.broken) == (5, None)
    assert found.first is not None
    assert found.last is not None
    assert (found.first.n, found.last.n) == (1, 5)
    assert found.last.table["by"] == "page at 10.0.0.5"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("line", [1, 3, 5])
@pytest.mark.parametrize(
    ("old", "new"),
    [('"by":"page', '"by":"Page'), ('"n":', '"m":'), ('"hash":"', '"hash":"0'), ("}", "} ")],
)
def test_a_changed_line_is_named(tmp_path: Path, line: int, old: str, new: str) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 5)
    lines = path.read_text().splitlines()
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_text("\n".join(lines) + "\n")
    found = verify(path)
    assert found.records == line - 1
    assert found.broken is not None
    assert found.broken.startswith(f"{path}:{line}: ")


def test_removed_moved_and_inserted_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 5)
    lines = path.read_text().splitlines()
    forged = make_line(3, T0, "unmute", {}, read_line(lines[1]).hash)
    for changed, broken in (
        ([lines[0], *lines[2:]], 2),
        ([lines[1], lines[0], *lines[2:]], 2),
        ([*lines[:2], forged, *lines[3:]], 4),  # its own hash is right, the next line tells
        ([*lines[:2], forged, *lines[2:]], 4),
        ([*lines[:3], "", *lines[3:]], 4),
        ([*lines, lines[4]], 6),
    ):
        path.write_text("\n".join(changed) + "\n")
        found = verify(path)
        assert found.broken is not None
        assert found.broken.startswith(f"{path}:{broken}: "), changed


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    position: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    written(path, 4)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    assert verify(path).broken is not None


@given(st.text())
def test_noise_is_no_record(text: str) -> None:
    with pytest.raises(BrokenLineError):
        read_line(text)


def test_full_files_are_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 40, max_bytes=2000, keep=100)
    files = old_files(path)
    assert len(files) >= 4
    assert all(file.stat().st_size < 2600 for file in files)
    assert (verify(path).records, verify(path).broken) == (40, None)
    # A whole file in the middle is missing.
    files[1].rename(tmp_path / "away")
    for old, new in itertools.pairwise(files[1:]):
        new.rename(old)
    found = verify(path)
    assert found.broken is not None
    assert "does not continue" in found.broken


def test_the_oldest_files_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 60, max_bytes=1000, keep=3)
    assert len(old_files(path)) == 3
    found = verify(path)
    assert found.broken is None
    assert found.first is not None
    assert found.last is not None
    assert found.first.n > 40
    assert found.last.n == 60


def test_after_a_full_file_was_put_away_the_chain_goes_on(tmp_path: Path) -> None:
    """As after a crash between the two steps of a change of files."""
    path = tmp_path / "audit.jsonl"
    written(path, 3)
    path.rename(tmp_path / "audit.jsonl.1")
    written(path, 3)
    assert (verify(path).records, verify(path).broken) == (6, None)


def test_a_torn_line_is_removed_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 3)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    assert verify(path).broken is not None
    with AuditLog(path, max_bytes=1 << 20, keep=3) as log:
        assert log.torn == len(content.splitlines()[2]) - 9
        assert log.damaged is None
        log.append(T0, "audit torn", {"bytes": log.torn})
    assert (verify(path).records, verify(path).broken) == (3, None)


def test_a_damaged_last_line_stays_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 3)
    path.write_bytes(path.read_bytes()[:-5] + b"xxxx\n")
    with AuditLog(path, max_bytes=1 << 20, keep=3) as log:
        assert log.damaged is not None
        log.append(T0, "audit damaged", {})
    found = verify(path)
    assert found.broken is not None
    assert found.broken.startswith(f"{path}.1:3: ")


def test_only_one_pipeline_writes(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with (
        AuditLog(path, max_bytes=1 << 20, keep=3),
        pytest.raises(UserError, match="another pipeline"),
    ):
        AuditLog(path, max_bytes=1 << 20, keep=3)
    written(path, 1)


def test_what_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        verify(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be opened"):
        AuditLog(tmp_path, max_bytes=1000, keep=3)


def test_a_change_of_files_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog(path, max_bytes=1, keep=10) as log:
        log.append(T0, "start", {})

        def refuse() -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as context:
            context.setattr(log, "_open", refuse)
            for _ in range(2):
                with pytest.raises(OSError, match="Too many"):
                    log.append(T0 + 1, "mute", {})
        log.append(T0 + 2, "mute", {})
    found = verify(path)
    assert (found.records, found.broken) == (2, None)


def test_a_change_of_files_that_was_killed_hides_no_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written(path, 4, max_bytes=1)
    for old in reversed(old_files(path)):  # killed after the old files were renamed
        old.rename(old.with_suffix(f".{int(old.suffix[1:]) + 1}"))
    assert verify(path).records == 4
    written(path, 2, max_bytes=1)
    found = verify(path)
    assert (found.records, found.broken) == (6, None)
