"""Network sources with real servers on loopback: every sample, every fault, every return."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from speech_emotion.common.wire import public
from tests.chaos.network import gap_errors
from tests.support import sound_servers
from tests.support.cable import Cable
from tests.support.pipelines import (
    BUNDLE,
    PATIENCE_S,
    ROOT,
    Running,
    leftovers,
    nothing_left_but,
    offline,
    runs,
    wait_until,
)
from tests.support.sound_servers import PASSWORD, Hls, Server, Sound, noise
from tests.support.watched import Watched

pytestmark = [
    pytest.mark.skipif(
        not sound_servers.has_ffmpeg(), reason="needs ffmpeg: deploy/setup.sh dev installs it"
    ),
]
needs_rtsp = pytest.mark.skipif(
    not sound_servers.has_rtsp_server(), reason="needs GStreamer's RTSP server"
)
needs_icecast = pytest.mark.skipif(not sound_servers.has_icecast(), reason="needs icecast2")
Supervise = Callable[..., Running]
SECONDS = 4.0


def recorded(url: str, out: Path, seconds: float = SECONDS) -> tuple[np.ndarray, int]:
    """What capture records from a source: samples (frames, channels) and rate."""
    before = leftovers()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "capture", "--source", url, "--seconds", str(seconds)),
            *("--record", str(out), "--bundle", str(BUNDLE)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    nothing_left_but(before)
    return soundfile.read(out, dtype="int16", always_2d=True)  # type: ignore[no-any-return]


def check_equal(sound: Sound, url: str, out: Path) -> None:
    samples, rate = recorded(url, out)
    assert rate == sound.rate
    assert samples.shape == (round(SECONDS * rate), sound.channels)
    assert sound.equals(sound.find(samples), samples)


SERVERS: dict[str, Any] = {
    "rtsp": (sound_servers.rtsp, 16000, 1, needs_rtsp),
    "rtsp stereo": (sound_servers.rtsp, 48000, 2, needs_rtsp),
    "rtmp": (sound_servers.rtmp, 22050, 1, ()),
    "srt": (sound_servers.srt, 48000, 2, ()),
    "udp": (sound_servers.udp, 48000, 2, ()),
}


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("serve", "rate", "channels"),
    [pytest.param(*row[:3], id=name, marks=row[3]) for name, row in SERVERS.items()],
)
def test_the_samples_that_arrive_are_those_that_were_sent(
    tmp_path: Path, serve: Callable[[Sound], Server], rate: int, channels: int
) -> None:
    sound = noise(tmp_path, rate, channels)
    with serve(sound) as server:
        check_equal(sound, server.url, tmp_path / "out.wav")


@needs_icecast
def test_icecast_gives_the_samples_that_were_sent(tmp_path: Path) -> None:
    sound = noise(tmp_path, 44100, 2)
    with (
        tempfile.TemporaryDirectory(prefix="sep-icecast-") as folder,
        sound_servers.icecast(sound, Path(folder)) as server,
    ):
        check_equal(sound, server.url, tmp_path / "out.wav")


def test_hls_gives_the_samples_that_were_sent(tmp_path: Path) -> None:
    sound = noise(tmp_path, 16000)
    (folder := tmp_path / "hls").mkdir()
    with Hls(sound, folder) as server:
        check_equal(sound, server.url, tmp_path / "out.wav")


def test_arguments_of_ffmpeg_are_a_source(tmp_path: Path) -> None:
    sound = noise(tmp_path, 16000)
    source = f"ffmpeg:-re -stream_loop -1 -i '{sound.path}'"
    check_equal(sound, source, tmp_path / "out.wav")


@needs_rtsp
def test_live_results_equal_the_offline_ones_of_the_recording(
    supervise: Supervise, tmp_path: Path, clip: Callable[..., Path]
) -> None:
    speech, rate = soundfile.read(clip(9.0), dtype="int16", always_2d=True)
    raw = tmp_path / "speech.raw"
    raw.write_bytes(speech.tobytes())
    tape = tmp_path / "tape"
    with sound_servers.rtsp(Sound(clip(9.0), raw, speech, rate)) as server:
        running = supervise(f"--source={server.url}", f"--record={tape}")
        running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 20)
        running.process.terminate()
        code, stderr, received = running.ended()
    assert code == 0, stderr
    assert received.stream() == offline(tape / "main")
    assert any(row["kind"] == "utterance" for row in received.stream())


# Faults ----------------------------------------------------------------------------------


@pytest.fixture
def watch(supervise: Supervise) -> Callable[..., Watched]:
    return lambda url, *flags: Watched(supervise(f"--source={url}", *flags))


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Server]:
    if not sound_servers.has_rtsp_server():
        pytest.skip("needs GStreamer's RTSP server")
    with sound_servers.rtsp(noise(tmp_path, 16000)) as server:
        yield server


Watch = Callable[..., Watched]


def test_a_killed_server_is_named_and_heard_again(watch: Watch, camera: Server) -> None:
    seen = watch(camera.url)
    seen.wait_live()
    camera.kill()
    seen.wait_for("lost", "recovering")
    seen.wait_for("recovering", word="refused")
    camera.start()
    seen.wait_heard_again()
    seen.end()


def test_a_frozen_server_is_named_and_heard_again(watch: Watch, camera: Server) -> None:
    seen = watch(camera.url)
    seen.wait_live()
    camera.freeze()
    seen.wait_for("lost", "recovering")
    time.sleep(4.0)  # attempts in vain
    camera.thaw()
    seen.wait_heard_again()
    seen.end()


def test_a_cut_network_is_named_and_heard_again(watch: Watch, camera: Server) -> None:
    cable = Cable(int(camera.url.rpartition(":")[2].partition("/")[0]))
    try:
        seen = watch(f"rtsp://127.0.0.1:{cable.port}/sound")
        seen.wait_live()
        cable.cut = True
        seen.wait_for("lost", "recovering")
        time.sleep(3.0)
        cable.cut = False
        seen.wait_live()
        seen.end()
    finally:
        cable.close()


def test_a_server_that_starts_late_is_waited_for(watch: Watch, tmp_path: Path) -> None:
    if not sound_servers.has_rtsp_server():
        pytest.skip("needs GStreamer's RTSP server")
    server = sound_servers.rtsp(noise(tmp_path, 16000))
    seen = watch(server.url)
    seen.wait_for("lost", "recovering", word="refused")
    with server:
        seen.wait_live()
        seen.end()


def test_a_server_that_accepts_and_says_nothing_is_named(watch: Watch) -> None:
    cable = Cable(9)  # nothing is relayed while it is cut
    cable.cut = True
    try:
        seen = watch(f"rtsp://127.0.0.1:{cable.port}/sound")
        seen.wait_for("lost", "recovering", word="timed out")
    finally:
        cable.cut = False
        cable.close()


def test_a_server_that_ffmpeg_waits_for_is_named(watch: Watch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts nothing and sends nothing
        raw = f"-f s16le -ar 16000 -ac 1 -i tcp://127.0.0.1:{server.getsockname()[1]}"
        seen = watch(f"ffmpeg:{raw}")
        seen.wait_for("lost", word="no samples yet")


def test_garbage_is_named(watch: Watch, camera: Server) -> None:
    cable = Cable(int(camera.url.rpartition(":")[2].partition("/")[0]))
    cable.garbage = True
    try:
        seen = watch(f"rtsp://127.0.0.1:{cable.port}/sound")
        seen.wait_for("lost", "recovering", word="no s")  # no samples, no sound
        cable.garbage = False
        seen.wait_live()
        seen.end()
    finally:
        cable.close()


@needs_rtsp
def test_a_password_is_used_and_shown_nowhere(supervise: Supervise, tmp_path: Path) -> None:
    sound, tape = noise(tmp_path, 16000), tmp_path / "tape"
    with sound_servers.rtsp(sound, password=PASSWORD) as server:
        running = supervise(
            f"--source={server.url}", f"--record={tape}", f"--history={tmp_path / 'history.sqlite'}"
        )
        seen = Watched(running)
        seen.wait_live()
        processes = [psutil.Process(running.process.pid)]
        processes += processes[0].children(recursive=True)
        assert any(process.name() == "ffmpeg" for process in processes)
        lines = [" ".join(process.cmdline()) for process in processes]
        server.kill()
        seen.wait_for("recovering", word="refused")
        running.process.terminate()
        code, stderr, received = running.ended()
    assert code == 0, stderr
    texts = [*lines, stderr, *(str(message) for message, _, _ in received.messages)]
    assert not [text for text in texts if PASSWORD in text]
    (info,) = {
        message.source for message, _, _ in received.messages if isinstance(message, public.Info)
    }
    assert info == f"rtsp://127.0.0.1:{server.url.rpartition(':')[2]}"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


@needs_rtsp
def test_a_wrong_password_is_named(watch: Watch, tmp_path: Path) -> None:
    with sound_servers.rtsp(noise(tmp_path, 16000), password=PASSWORD) as server:
        seen = watch(server.url.replace(PASSWORD, "wrong-one"))
        row = seen.wait_for("lost", "recovering", word="password")
        assert "wrong-one" not in str(row)


def test_a_killed_capture_declares_its_gap(watch: Watch, camera: Server) -> None:
    seen = watch(camera.url)
    seen.wait_live()
    seen.running.stages()["capture"].kill()
    seen.wait_for("recovering")
    seen.wait_heard_again()
    seen.end()


def test_ffmpeg_ends_with_its_capture(watch: Watch, camera: Server) -> None:
    seen = watch(camera.url)
    seen.wait_live()
    (decoder,) = (
        child
        for child in psutil.Process(seen.running.process.pid).children(recursive=True)
        if child.name() == "ffmpeg"
    )
    seen.running.stages()["capture"].kill()
    wait_until(lambda: not runs(decoder), "ffmpeg to end")
    seen.wait_live()
    seen.end()


def test_a_killed_ffmpeg_is_replaced(watch: Watch, camera: Server) -> None:
    seen = watch(camera.url)
    seen.wait_live()
    for child in psutil.Process(seen.running.process.pid).children(recursive=True):
        if child.name() == "ffmpeg":
            child.kill()
    seen.wait_heard_again()
    seen.end()


def test_without_ffmpeg_one_line_names_its_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "capture", "--source", "rtsp://127.0.0.1:9/x"],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "apt-get install ffmpeg" in line


def test_a_mistake_in_the_arguments_is_one_line(supervise: Supervise) -> None:
    code, stderr, _ = supervise("--source=ffmpeg:-nonsense 1 -i x.wav").ended()
    assert code == 2
    assert "nonsense" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


@needs_icecast
def test_the_gap_of_a_cut_is_as_long_as_the_sound_that_is_missing(
    watch: Watch, tmp_path: Path
) -> None:
    sound, tape = noise(tmp_path, 16000), tmp_path / "tape"
    with (
        tempfile.TemporaryDirectory(prefix="sep-icecast-") as folder,
        sound_servers.icecast(sound, Path(folder)) as server,
    ):
        cable = Cable(int(server.url.rpartition(":")[2].partition("/")[0]))
        try:
            seen = watch(f"http://127.0.0.1:{cable.port}/sound.ogg", f"--record={tape}")
            seen.wait_live()
            cable.cut = True
            seen.wait_for("lost", "recovering")
            time.sleep(2.0)
            cable.cut = False
            seen.wait_heard_again()
            seen.end()
        finally:
            cable.close()
    (error,) = gap_errors(tape / "main", sound)
    assert abs(error) < 0.5  # a busy machine reads late; `python -m tests.chaos` measures it
