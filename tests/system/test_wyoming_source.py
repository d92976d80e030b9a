"""The microphone of a Wyoming server, with the package `wyoming` as the peer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from tests.support.pipelines import Running
from tests.support.sound_senders import wyoming
from tests.support.sound_servers import noise
from tests.support.watched import Watched

pytest.importorskip("wyoming", reason="needs the extra `test`")

Supervise = Callable[..., Running]


def test_a_wyoming_microphone_is_heard_lost_and_heard_again(
    supervise: Supervise, tmp_path: Path
) -> None:
    sound, tape = noise(tmp_path, 16000), tmp_path / "tape"
    server = wyoming(sound)
    seen = Watched(supervise(f"--source={server.url}", f"--record={tape}"))
    seen.wait_for("lost", "recovering", word="refused")
    with server:
        seen.wait_live()
        server.freeze()
        seen.wait_for("lost", "recovering", word="no samples")
        server.thaw()
        seen.wait_live()
        server.kill()
        seen.wait_for("lost", "recovering")
    seen.end()
    samples, rate = soundfile.read(next((tape / "main").glob("*.flac")), dtype="int16")
    part = samples[:rate].reshape(-1, 1)
    assert sound.equals(sound.find(part), part)
