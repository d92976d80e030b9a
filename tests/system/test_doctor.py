"""The doctor: what it says of boxes that are well and of those that are not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion.commands import doctor
from speech_emotion.commands.finding import Finding, Level
from speech_emotion.commands.trial import Trial, hear, judge
from speech_emotion.common.wire import public
from tests.support import sound_senders, sound_servers
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    PATIENCE_S,
    ROOT,
    Running,
    fresh_endpoint,
    leftovers,
    nothing_left_but,
)
from tests.support.publisher import result
from tests.support.pulse import VirtualMicrophone, installed
from tests.support.sound_servers import PASSWORD
from tools.ports import free_port

DOCTOR_S = 5 * PATIENCE_S
"""Its checks are processes one after the other, each with a time limit of its own."""
Clip = Callable[..., Path]
Supervise = Callable[..., Running]


def examined(*flags: str, results: str | None = None) -> tuple[int, str]:
    """Run the doctor: exit code and what it printed; it leaves nothing behind."""
    before = leftovers()
    done = subprocess.run(
        [
            *(sys.executable, "supervisor.py", "doctor"),
            *("--results", results or fresh_endpoint(), *flags),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=DOCTOR_S,
    )
    assert done.stderr == ""
    nothing_left_but(before)
    return done.returncode, done.stdout


def line(printed: str, topic: str) -> str:
    """The finding on a topic, its advice behind it."""
    lines = printed.splitlines()
    at = next(i for i, text in enumerate(lines) if text[6:].startswith(topic))
    return " ".join(lines[at : at + 2]) if "->" in "".join(lines[at + 1 : at + 2]) else lines[at]


def test_a_box_that_is_well() -> None:
    code, printed = examined("--source", f"file:{DEMO}")
    assert code <= Level.LOOK, printed  # the tests may run as root, or without a synchronized clock
    assert "BAD" not in printed
    for topic in ("configuration", "bundle", "/dev/shm", "clock", "sockets", "results"):
        assert line(printed, topic)
    assert line(printed, "hear main").startswith("ok")
    assert "of a core for 1 stream" in line(printed, "CPU")


def test_a_mistake_in_the_configuration_is_a_finding(tmp_path: Path) -> None:
    config = tmp_path / "box.toml"
    config.write_text("resutls = 'x'")
    code, printed = examined("--config", str(config))
    assert code == Level.BAD
    assert "resutls is not a key" in line(printed, "configuration")


def test_a_damaged_bundle_and_a_missing_file(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    (bundle / "model.tflite").write_bytes(b"no model")
    code, printed = examined("--bundle", str(bundle), "--source", "file:nowhere.wav")
    assert code == Level.BAD
    assert "model.tflite" in line(printed, "bundle")
    assert "restore or rebuild" in line(printed, "bundle")
    assert line(printed, "/dev/shm").startswith("ok")  # the others are looked at all the same
    assert line(printed, "trial").startswith("BAD")


def test_a_port_that_another_program_has() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, printed = examined("--source", "file:nowhere.wav", results=endpoint)
    assert code == Level.BAD
    assert "in use" in line(printed, "results")
    assert "ss -ltnp" in line(printed, "results")
    assert "nowhere.wav" in line(printed, "trial")
    assert "path" in line(printed, "trial")


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    config = tmp_path / "box.toml"
    config.write_text("[curve]\nsecret = 'nowhere'\nallowed = 'nowhere'")
    flags = ["--config", str(config), "--source", "file:nowhere.wav"]
    code, printed = examined(*flags, results="tcp://0.0.0.0:0")
    assert code == Level.BAD
    assert "nowhere: is not a key file" in line(printed, "keys")
    config.write_text("[curve]\nunprotected = true")
    _, printed = examined(*flags, results="tcp://0.0.0.0:0")
    assert line(printed, "keys").startswith("look")
    assert "everybody" in line(printed, "keys")


def test_a_muted_microphone_is_told_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "zeros.wav"
    soundfile.write(path, np.zeros(16000 * 8, np.float32), 16000)
    code, printed = examined("--source", f"file:{path}")
    assert code == Level.LOOK
    assert "nothing but zeros" in line(printed, "hear main")
    assert "muted" in line(printed, "hear main")


def test_beside_a_running_pipeline_nothing_is_tried(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=8)}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    done = subprocess.run(
        [*(sys.executable, "supervisor.py", "doctor"), "--results", running.endpoint],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=DOCTOR_S,
    )
    assert f"process {running.process.pid}" in line(done.stdout, "trial")
    assert "a pipeline is running" in line(done.stdout, "results")
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert all(stage.restarts == 0 for stage in received.fresh(public.Health)[-1].stages)


def test_too_little_shared_memory() -> None:
    small = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mounted = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    if subprocess.run([*small, mounted, "sh", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs a mount namespace, which this machine does not give")
    command = [sys.executable, "supervisor.py", "doctor", "--source", f"file:{DEMO}"]
    done = subprocess.run(
        [*small, mounted, "sh", *command, "--results", fresh_endpoint()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=DOCTOR_S,
    )
    assert done.returncode == Level.BAD
    assert line(done.stdout, "/dev/shm").startswith("BAD")
    assert "ring.seconds" in line(done.stdout, "/dev/shm")


@pytest.mark.skipif(not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it")
def test_a_virtual_microphone_is_heard(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0.0, 0.03, 60 * 16000)
    soundfile.write(tmp_path / "noise.wav", np.tile(noise, 6), 16000)
    with VirtualMicrophone() as mic:
        mic.play(tmp_path / "noise.wav")
        done = subprocess.run(
            [*(sys.executable, "supervisor.py", "doctor"), "--results", fresh_endpoint()],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=DOCTOR_S,
            env={**os.environ, **mic.env},
        )
    assert "input devices" in line(done.stdout, "devices"), done.stdout
    assert "sound is heard" in line(done.stdout, "hear main"), done.stdout


@pytest.mark.slow  # it listens for ten seconds
@pytest.mark.skipif(not sound_servers.has_ffmpeg(), reason="needs ffmpeg")
def test_network_sources_are_heard_or_named(tmp_path: Path) -> None:
    sound = sound_servers.noise(tmp_path, 16000)
    servers = {"phone": sound_senders.websocket(sound), "sender": sound_senders.rtp(sound)}
    sources = {name: server.url for name, server in servers.items()}
    sources |= {"absent": f"rtsp://joe:{PASSWORD}@127.0.0.1:{free_port()}/x"}
    config = tmp_path / "box.toml"
    config.write_text(
        f"[listen]\ntoken = '{sound_senders.TOKEN}'\n"
        + "".join(f"[[stream]]\nname = '{n}'\nsource = '{s}'\n" for n, s in sources.items())
    )
    with servers["phone"], servers["sender"]:
        code, printed = examined("--config", str(config), "--bundle", str(BUNDLE))
    assert code == Level.BAD, printed
    for name in servers:
        assert "sound is heard" in line(printed, f"hear {name}"), printed
    absent = line(printed, "hear absent")
    assert "nothing, the stream is" in absent, printed
    assert "connection refused" in absent, printed
    assert PASSWORD not in printed


# Words for figures --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("levels", "level", "words"),
    [
        ([], Level.BAD, "nothing"),
        ([-100.0, -100.0], Level.LOOK, "zeros"),
        ([-90.0, -80.0], Level.LOOK, "next to nothing"),
        ([-60.0, -58.0, -30.0], Level.WELL, "a quiet room"),
        ([-30.0, -20.0], Level.WELL, "sound"),
        ([-30.0, -1.0], Level.LOOK, "clips"),
    ],
)
def test_levels_in_words(levels: list[float], level: Level, words: str) -> None:
    found = hear("main", "mic", levels, "live")
    assert found.level is level
    assert words in found.text
    assert bool(found.advice) is (level is not Level.WELL)


def tried(*, total: float = 5.0, cpu: float = 0.2, **counters: int) -> dict[str, Finding]:
    row = public.StreamHealth(
        name="main",
        run="a",
        state="live",
        reason=None,
        state_s=9.0,
        device=None,
        position=0,
        level_db=-30.0,
        clipped=0.0,
        gaps=0,
        lost=0,
    )
    rows = [
        dataclasses.replace(result(k), rms_db=-30.0, timing_ms={"total": total}) for k in range(5)
    ]
    trial = Trial(rows, public.Health(0.0, "ok", [], [row], counters), None, cpu, 2)
    return {finding.topic: finding for finding in judge(trial, {"main": "mic"})}


def test_what_a_trial_means() -> None:
    assert {finding.level for finding in tried().values()} == {Level.WELL}
    assert tried(cpu=1.2)["CPU"].level is Level.LOOK
    assert tried(cpu=1.8)["CPU"].level is Level.BAD
    assert tried(total=400.0)["delay"].level is Level.LOOK
    assert tried(capture_xruns=3)["losses"].level is Level.LOOK
    assert "capture_xruns 3" in tried(capture_xruns=3)["losses"].text
    assert tried(results_accepted=3)["losses"].level is Level.WELL


@pytest.mark.parametrize(
    ("status", "level"), [(0, Level.WELL), (doctor.STA_UNSYNC, Level.LOOK), (None, Level.LOOK)]
)
def test_the_clock(status: int | None, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_clock_status", lambda: status)
    (found,) = doctor.check_clock(None)  # type: ignore[arg-type]
    assert found.level is level


def test_the_kernel_is_asked_for_the_clock() -> None:
    status = doctor._clock_status()
    assert status is None or 0 <= status <= 0xFFFF


def test_a_finding_is_printed_with_its_advice() -> None:
    assert Finding(Level.BAD, "x", "is broken", "mend it").lines() == [
        "BAD   x             is broken",
        f"{'':20}-> mend it",
    ]
