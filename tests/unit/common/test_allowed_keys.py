"""Which keys the authenticator accepts while the files of the folder change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from speech_emotion.common.security.curve import CurveServerKeys, allowed_keys, read_public
from speech_emotion.common.security.zap import ZAP, ZapAuthenticator
from tests.support.key_files import KeyFolder

Accepts = Callable[[str], bool]


@pytest.fixture
def curve(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


@pytest.fixture
def accepts(curve: KeyFolder) -> Iterator[Accepts]:
    """Whether the authenticator accepts the key of `friend` or `stranger` now."""
    context: zmq.Context[Any] = zmq.Context()
    keys = {name: read_public(curve.folder / f"{name}.key") for name in ("stranger", "box")}
    keys["friend"] = read_public(curve.allowed / "friend.key")
    authenticator = ZapAuthenticator(context)
    server = context.socket(zmq.ROUTER)
    lock = CurveServerKeys(curve.folder / "box.key_secret", curve.allowed)
    authenticator.guard(server, lock, "results")
    client = context.socket(zmq.REQ)
    client.connect(ZAP)

    def ask(name: str) -> bool:
        request = [b"1.0", b"7", b"results", b"::1", b"", b"CURVE", z85.decode(keys[name])]
        client.send_multipart(request)
        authenticator.turn()
        return bool(client.recv_multipart()[2] == b"200")

    yield ask
    context.destroy(linger=0)


def test_a_damaged_file_neither_keeps_a_revoked_key_nor_ends_the_others(
    curve: KeyFolder, accepts: Accepts, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(curve.folder / "stranger.key", curve.allowed)
    assert accepts("friend")
    assert accepts("stranger")
    (curve.allowed / "damaged.key").write_text("half a fi")
    (curve.allowed / "stranger.key").unlink()
    assert not accepts("stranger")
    assert accepts("friend")
    assert "damaged.key: is not a key file" in caplog.text
    assert caplog.text.count("damaged.key") == 1  # not for every client
    CurveServerKeys(curve.folder / "box.key_secret", curve.allowed).check()


def test_a_file_overwritten_in_place_counts_with_its_new_key(
    curve: KeyFolder, accepts: Accepts
) -> None:
    path = curve.allowed / "friend.key"
    assert accepts("friend")
    before = path.stat()
    path.write_bytes((curve.folder / "stranger.key").read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and cp -p do
    assert not accepts("friend")
    assert accepts("stranger")


def test_without_the_folder_no_key_is_accepted(curve: KeyFolder, accepts: Accepts) -> None:
    assert accepts("friend")
    away = curve.allowed.rename(curve.folder / "away")
    assert not accepts("friend")
    away.rename(curve.allowed)
    assert accepts("friend")


def test_what_is_no_regular_file_is_not_opened(curve: KeyFolder, accepts: Accepts) -> None:
    os.mkfifo(curve.allowed / "pipe.key")
    (curve.allowed / "folder.key").mkdir()
    (curve.allowed / "dangling.key").symlink_to("nowhere")
    (curve.allowed / "linked.key").symlink_to(curve.folder / "stranger.key")
    assert accepts("friend")
    assert accepts("stranger")
    assert set(allowed_keys(curve.allowed).values()) == {"friend", "linked"}
