"""Credentials of network sources are removed wherever a source is shown."""

from __future__ import annotations

import pytest

from speech_emotion.common.config.checks import check_source
from speech_emotion.common.config.load import load_config, to_toml, without_secrets
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_address import secrets_of, shown
from speech_emotion.common.source_address import without_secrets as cleared


@pytest.mark.parametrize(
    ("source", "public"),
    [
        ("rtsp://cam/stream", "rtsp://cam/stream"),
        ("rtsp://joe:p%40ss@cam:554/live?channel=1", "rtsp://cam:554/live?channel=***"),
        ("rtsp://joe:p@ss@cam/live", "rtsp://cam/live"),
        ("https://radio/a.m3u8?token=abc&x=1#t", "https://radio/a.m3u8?token=***&x=***"),
        ("srt://host:9000?passphrase=secretsecret", "srt://host:9000?passphrase=***"),
        (
            "ffmpeg:-headers 'Authorization: Basic abc' -i http://u:p@host/a",
            "ffmpeg:-headers *** -i http://host/a",
        ),
        ("ffmpeg:-passphrase hunter22 -i srt://h:1", "ffmpeg:-passphrase *** -i srt://h:1"),
        ("mic:USB PnP", "mic:USB PnP"),
        ("file:/tmp/what?=now@home.wav", "file:/tmp/what?=now@home.wav"),
    ],
)
def test_a_shown_source_has_no_credentials(source: str, public: str) -> None:
    assert shown(source) == public


def test_an_error_of_ffmpeg_is_shown_without_them() -> None:
    source = "rtsp://joe:p%40ss@cam/live?key=abcdef"
    line = "[tcp] cannot log in as joe with p@ss at rtsp://joe:p%40ss@cam/live?key=abcdef (abcdef)"
    text = cleared(line, secrets_of(source))
    assert not any(secret in text for secret in ("joe", "p@ss", "p%40ss", "abcdef"))
    assert "cannot log in" in text
    assert "rtsp://cam/live" in text


@pytest.mark.parametrize(
    "source",
    [
        *("rtsp://joe:pw@[::1]:8554/x", "udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
        *("srt://h:9000?mode=caller", "http://h/x", "ffmpeg:-f alsa -i hw:1", "rtmps://h/app/key"),
    ],
)
def test_network_sources_are_known(source: str) -> None:
    assert check_source(source) == source


@pytest.mark.parametrize(
    "source",
    [
        *("rtsp:cam", "rtsp://", "rtsp:///x", "http://h:99999/", "rtsp://joe:hunter2/3@cam/x"),
        *(
            "rtsp://joe:hunter2@h/a b",
            "gopher://h/",
            "ffmpeg:",
            "ffmpeg:-f alsa",
            "http://h/\x1b[2J",
        ),
    ],
)
def test_a_malformed_source_is_one_line_without_its_password(source: str) -> None:
    with pytest.raises(UserError) as error:
        check_source(source)
    assert "hunter2" not in str(error.value)
    assert str(error.value).isprintable()


def test_a_shown_configuration_has_no_password() -> None:
    config = load_config(None, {"stream": [{"source": "rtsp://joe:hunter2@cam/live"}]})
    assert "hunter2" in to_toml(config)
    text = to_toml(without_secrets(config))
    assert "hunter2" not in text
    assert "rtsp://cam/live" in text
