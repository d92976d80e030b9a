"""The configuration file is replaced whole, or not at all; its earlier versions are kept."""

from __future__ import annotations

import os
import stat
import types
from pathlib import Path

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.settings import config_file
from speech_emotion.dashboard.settings.config_file import (
    KEPT,
    ChangedMeanwhileError,
    ConfigFile,
    is_mounted,
)
from speech_emotion.dashboard.settings.editor import restart_command

FIRST = "# a\r\nprosody = true\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "box.toml"
    path.parent.mkdir()
    path.write_bytes(FIRST.encode())
    path.chmod(0o640)
    return path


@pytest.fixture
def file(path: Path, tmp_path: Path) -> ConfigFile:
    return ConfigFile(path, tmp_path / "versions")


def accept(_: Path) -> None:
    pass


def write(file: ConfigFile, text: str) -> None:
    file.write(text, file.read()[1], accept)


def only_the_file(path: Path) -> bool:
    return [one.name for one in path.parent.iterdir()] == [path.name]


def test_it_is_replaced_with_its_mode(file: ConfigFile, path: Path) -> None:
    seen: list[str] = []
    file.write("b = 1\n", file.read()[1], lambda part: seen.append(part.read_text()))
    assert seen == [path.read_text()] == ["b = 1\n"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert only_the_file(path)


def test_a_link_is_followed(file: ConfigFile, path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    write(ConfigFile(link, tmp_path / "versions"), "b = 1\n")
    assert link.is_symlink()
    assert path.read_text() == "b = 1\n"
    assert file.undoable(file.read()[1]) is not None


def test_what_an_editor_has_changed_stays(file: ConfigFile, path: Path) -> None:
    _, version = file.read()
    path.write_text("edited = 1\n")
    with pytest.raises(ChangedMeanwhileError, match="has changed meanwhile; nothing was written"):
        file.write("b = 1\n", version, accept)
    version = file.read()[1]

    def edit(_: Path) -> None:
        path.write_text("edited = 2\n")

    with pytest.raises(ChangedMeanwhileError):  # at the last moment
        file.write("b = 1\n", version, edit)
    assert path.read_text() == "edited = 2\n"
    assert only_the_file(path)


def test_a_refused_text_changes_nothing(file: ConfigFile, path: Path, tmp_path: Path) -> None:
    def refuse(_: Path) -> None:
        raise UserError("days = 0 must be more")

    with pytest.raises(UserError, match="days = 0"):
        file.write("b = 1\n", file.read()[1], refuse)
    assert path.read_bytes() == FIRST.encode()
    assert only_the_file(path)
    assert not (tmp_path / "versions").exists()


def test_changes_are_undone_one_after_another(file: ConfigFile, path: Path) -> None:
    for number in range(3):
        write(file, f"n = {number}\n")
    for expected in ("n = 1\n", "n = 0\n", FIRST):
        version = file.read()[1]
        assert file.undoable(version) is not None
        file.undo(version, accept)
        assert path.read_bytes().decode() == expected
    version = file.read()[1]
    assert file.undoable(version) is None
    with pytest.raises(UserError, match="there is no change to undo"):
        file.undo(version, accept)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_undo_never_removes_what_an_editor_wrote(file: ConfigFile, path: Path) -> None:
    write(file, "n = 0\n")
    shown = file.read()[1]
    path.write_text("edited = 1\n")
    with pytest.raises(ChangedMeanwhileError):
        file.undo(shown, accept)
    assert file.undoable(file.read()[1]) is None
    assert path.read_text() == "edited = 1\n"


def test_the_newest_versions_are_kept_for_the_owner_only(file: ConfigFile, tmp_path: Path) -> None:
    for number in range(KEPT + 5):
        write(file, f"n = {number}\n")
    kept = list((tmp_path / "versions").iterdir())
    assert len(kept) == KEPT
    assert {stat.S_IMODE(one.stat().st_mode) for one in kept} == {0o600}
    assert stat.S_IMODE((tmp_path / "versions").stat().st_mode) == 0o700


def test_a_file_that_cannot_be_replaced_says_what_mends_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ConfigFile(path, tmp_path / "versions")
    assert file.trouble() is None
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert f"belongs to {path.owner()}: chown 54321 " in str(file.trouble())
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda one, _: Path(one) != path.parent)
    trouble = file.trouble()
    assert trouble is not None
    assert f"may not write {path.parent}: chown" in trouble
    with pytest.raises(UserError, match="may not write"):
        write(file, "b = 1\n")
    assert path.read_bytes() == FIRST.encode()
    monkeypatch.undo()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for wrong, text in ((pipe, "no regular file"), (tmp_path / "none", "No such file")):
        other = ConfigFile(wrong, tmp_path / "versions")
        assert text in str(other.trouble())
        with pytest.raises(UserError, match=text):
            other.read()


def test_a_mounted_file_cannot_be_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_mounted(Path("/proc"))
    assert not is_mounted(path)
    monkeypatch.setattr(config_file, "is_mounted", lambda one: one == path)
    assert "mount its folder in place of it" in str(ConfigFile(path).trouble())


@pytest.mark.parametrize(
    ("cgroup", "command"),
    [
        ("0::/system.slice/sep.service\n", "sudo systemctl restart sep"),
        ("0::/system.slice/sep-infer@box.service\n", "sudo systemctl restart sep-infer@box"),
        ("0::/user.slice/user-1000.slice/user@1000.service\n", None),
        ("0::/user.slice/session-3.scope\n", None),
        ("0::/\n", None),
    ],
)
def test_the_command_that_restarts_a_service(
    cgroup: str, command: str | None, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    assert restart_command(tmp_path / "cgroup") == command
    assert restart_command(tmp_path / "none") is None


def test_a_sandbox_names_the_line_of_the_service(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", lambda _: types.SimpleNamespace(f_flag=os.ST_RDONLY))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert str(ConfigFile(path).trouble()) == (
        f"{path} is read-only for this service: add ReadWritePaths={path.parent} with `systemctl "
        f"edit`, or mount it writable; chown 54321 {path.parent} {path}"
    )
