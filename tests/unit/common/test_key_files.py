"""Key files, and which endpoints need keys."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import (
    CurveServerKeys,
    allowed_keys,
    make_keys,
    read_pair,
    read_public,
)
from speech_emotion.common.wire.endpoint import check_exposure, on_loopback


def test_a_pair_is_made_and_read_again(tmp_path: Path) -> None:
    public, secret = make_keys(tmp_path / "keys", "box")
    pair = read_pair(secret)
    assert read_public(public) == read_public(secret) == pair.public
    assert pair.public != pair.secret
    assert pair.secret.decode() not in public.read_text()
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert pair.secret.decode() not in repr(pair)
    assert allowed_keys(public.parent) == {pair.public: "box"}


def test_a_key_is_not_overwritten(tmp_path: Path) -> None:
    _, secret = make_keys(tmp_path, "box")
    before = secret.read_bytes()
    with pytest.raises(UserError, match="exists"):
        make_keys(tmp_path, "box")
    assert secret.read_bytes() == before


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    _, secret = make_keys(tmp_path, "box")
    secret.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        read_pair(secret)


def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    public, _ = make_keys(tmp_path, "box")
    with pytest.raises(UserError, match="no secret key"):
        read_pair(public)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_key_file_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.key"
    path.write_bytes(b"public-key = " + content)
    with pytest.raises(UserError, match=r"any\.key"):
        read_public(path)


def test_a_missing_folder_and_an_empty_one(tmp_path: Path) -> None:
    _, secret = make_keys(tmp_path, "box")
    (tmp_path / "none").mkdir()
    for folder, words in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "none", "no client"),
    ):
        with pytest.raises(UserError, match=words):
            CurveServerKeys(secret, folder).check()


@pytest.mark.parametrize(
    ("endpoint", "inside"),
    [
        ("ipc:///run/x", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.8.9.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://lo:1", True),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://eth0:1", False),
        ("tcp://192.168.0.9:1", False),
        ("tcp://127.0.0.1.example.org:1", False),
    ],
)
def test_what_is_loopback(endpoint: str, inside: bool) -> None:
    assert on_loopback(endpoint) is inside
    if inside:
        check_exposure(endpoint, "results", locked=False, unprotected=False)
    else:
        with pytest.raises(UserError, match="whole network"):
            check_exposure(endpoint, "results", locked=False, unprotected=False)
        check_exposure(endpoint, "results", locked=True, unprotected=False)
        check_exposure(endpoint, "results", locked=False, unprotected=True)
