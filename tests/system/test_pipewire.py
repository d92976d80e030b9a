"""A microphone of PipeWire: heard, unplugged, plugged in again, and its daemon killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from speech_emotion.capture.sources.network.pipewire import Node, choose, parse_nodes
from tests.support.pipelines import ROOT, Running, wait_until
from tests.support.pipewire import NODE, VirtualPipeWire, installed
from tests.support.sound_servers import noise
from tests.support.watched import Watched


@pytest.mark.slow
@pytest.mark.skipif(not installed(), reason="needs PipeWire: deploy/setup.sh dev installs it")
def test_a_microphone_is_heard_lost_and_heard_again(
    supervise: Callable[..., Running], tmp_path: Path
) -> None:
    sound, tape = noise(tmp_path, 48000), tmp_path / "tape"
    with VirtualPipeWire() as pipewire:
        pipewire.start()
        wait_until(lambda: f"pipewire:{NODE}" in listed(pipewire), "the microphone in the list")
        pipewire.play(sound.path)
        flags = (f"--source=pipewire:{NODE}", f"--record={tape}")
        seen = Watched(supervise(*flags, env=pipewire.env))
        seen.wait_live()
        pipewire.unplug()
        seen.wait_for("lost", "recovering", word="no sources")
        pipewire.plug()
        pipewire.play(sound.path)
        seen.wait_live()
        pipewire.kill()
        seen.wait_for("lost", "recovering", word="PipeWire does not run")
        assert any(result.lost for result in seen.end())
    samples, _ = soundfile.read(next((tape / "main").glob("*.flac")))
    assert abs(samples[:32000]).max() > 0.1


def listed(pipewire: VirtualPipeWire) -> str:
    """The list of devices; PipeWire is asked for 2 s only."""
    return subprocess.run(
        [sys.executable, "-m", "capture", "--list-devices"],
        cwd=ROOT,
        env={**os.environ, **pipewire.env},
        capture_output=True,
        text=True,
    ).stdout


def test_a_source_is_chosen_by_name_or_a_part_of_it() -> None:
    camera, array = (
        Node("alsa_input.usb-cam", "Camera", 1),
        Node("alsa_input.usb-array", "Array", 4),
    )
    assert choose([camera, array], "") == camera
    assert choose([camera, array], "alsa_input.usb-array") == array
    assert choose([camera, array], "camera") == camera
    for name, count in (("attic", "no sources"), ("alsa", "2 sources")):
        with pytest.raises(ValueError, match=f"{count} '{name}'; it has: alsa_input.usb-cam"):
            choose([camera, array], name)


def test_what_is_no_list_of_sources_has_none() -> None:
    for dump in (b"", b"{}", b"[1, null, {}]", b'[{"info": {"props": {"media.class": 3}}}]'):
        assert parse_nodes(dump) == []
    row = b'{"info": {"props": {"media.class": "Audio/Source", "node.name": "a"}, "params": %s}}'
    formats = b'{"EnumFormat": [{"channels": 4}]}'
    assert parse_nodes(b"[" + row % formats + b"]") == [Node("a", "a", 4)]
    assert parse_nodes(b"[" + row % b"{}" + b"]") == [Node("a", "a", 2)]
