"""The command line of ffmpeg never shows a URL; its own arguments are passed on."""

from __future__ import annotations

import pytest

from speech_emotion.capture.sources.network.ffmpeg.command import command_for
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_address import FFMPEG_URLS


@pytest.mark.parametrize("scheme", FFMPEG_URLS)
def test_a_url_is_in_the_list_only(scheme: str) -> None:
    command = command_for(f"{scheme}://joe:it's@cam/live?key=abc", 7)
    assert not any("cam" in word for word in command.words)
    assert command.listing is not None
    assert f"file '{scheme}://joe:it'\\''s@cam/live?key=abc'" in command.listing
    assert "pipe\\:7" in command.words[-1]


def test_arguments_are_split_as_a_shell_does() -> None:
    command = command_for("ffmpeg:-f lavfi -i 'sine=440, volume=0.1'", 3)
    assert command.listing is None
    assert "sine=440, volume=0.1" in command.words
    assert command.words.index("-i") < command.words.index("-map")


def test_a_map_of_the_user_is_kept() -> None:
    assert command_for("ffmpeg:-i a -map 0:a:1", 3).words.count("-map") == 1


def test_an_open_quote_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="quote"):
        command_for("ffmpeg:-i 'a", 3)


def test_hls_is_known_by_its_playlist() -> None:
    assert command_for("https://radio/live/a.m3u8?token=x", 3).stored
    assert not command_for("https://radio/live.ogg", 3).stored
