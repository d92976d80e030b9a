"""A real PortAudio device: capture records the played samples exactly and keeps time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from scipy.signal import correlate

from speech_emotion.common.errors import EXIT_DEVICE
from speech_emotion.common.wire import public
from tests.support.pipelines import (
    BUNDLE,
    PATIENCE_S,
    ROOT,
    Received,
    Running,
    Subscriber,
    fresh_endpoint,
    offline,
    wait_until,
)
from tests.support.pulse import VirtualMicrophone, installed
from tests.support.sound_servers import noise
from tests.support.watched import Watched, drift_s

pytestmark = pytest.mark.skipif(
    not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it"
)
Supervise = Callable[..., Running]
Clip = Callable[..., Path]
Pcm = NDArray[np.int16]


@pytest.fixture
def microphone() -> Iterator[VirtualMicrophone]:
    with VirtualMicrophone() as mic:
        yield mic


def recording(mic: VirtualMicrophone, played: Path, out: Path) -> Pcm:
    """Play a file into a microphone while capture records it: (frames, channels).

    A sound server that a busy machine does not run for a second is a lost device: then again.
    """
    code = EXIT_DEVICE
    for _ in range(5):
        if code == EXIT_DEVICE:
            code = record(mic, played, out)
    assert code == 0
    recorded, rate = soundfile.read(out, dtype="int16", always_2d=True)
    assert rate == mic.rate
    return np.asarray(recorded)


def record(mic: VirtualMicrophone, played: Path, out: Path) -> int:
    """The same once; the exit code of capture."""
    with subprocess.Popen(
        [sys.executable, "-m", "capture", "--source", "mic", "--record", str(out)],
        cwd=ROOT,
        env={**os.environ, **mic.env},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert "recording from" in process.stderr.readline()
        assert mic.play(played).wait(PATIENCE_S) == 0
        process.terminate()
        return process.wait(PATIENCE_S)


def test_the_devices_are_listed(microphone: VirtualMicrophone) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "capture", "--list-devices"],
        cwd=ROOT,
        env={**os.environ, **microphone.env},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0
    assert "mic:pulse" in finished.stdout
    assert "16000 Hz" in finished.stdout


@pytest.mark.costly_cases
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2)])
def test_recorded_samples_equal_the_played_ones(
    clip: Clip, tmp_path: Path, rate: int, channels: int
) -> None:
    speech, spoken = soundfile.read(clip(5.0), dtype="float64")
    if rate != spoken:
        speech = soxr.resample(speech, spoken, rate)
    mono = np.clip(np.rint(speech * 20000), -32768, 32767).astype(np.int16)
    played = np.stack([np.roll(mono, 1000 * n) for n in range(channels)], axis=1)
    # An idle sink drops the first milliseconds, and the last seconds are not recorded where the
    # stop overtakes them: make both silence.
    silence = np.zeros((rate // 2, channels), np.int16)
    played = np.concatenate([silence, played])
    path = tmp_path / "played.wav"
    soundfile.write(path, np.concatenate([played, *[silence] * 8]), rate)
    with VirtualMicrophone(rate, channels) as mic:
        recorded = recording(mic, path, tmp_path / "recorded.wav")
    assert recorded.shape[1] == channels
    matched = correlate(recorded[:, 0].astype(float), played[:, 0].astype(float), method="fft")
    shift = int(matched.argmax()) - (len(played) - 1)
    silent = rate // 2
    assert np.array_equal(recorded[shift + silent : shift + len(played)], played[silent:])


def test_live_results_equal_the_offline_ones_of_the_recorded_samples(
    microphone: VirtualMicrophone, clip: Clip, tmp_path: Path
) -> None:
    hub, features, results = fresh_endpoint(), fresh_endpoint(), fresh_endpoint()
    subscriber = Subscriber(results)
    stages = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT)
        for command in (
            ["features", "--bind", features, "--hub", hub, "--bundle", str(BUNDLE)],
            [
                *("infer", "--hub", hub, "--features", features, "--results", results),
                *("--bundle", str(BUNDLE)),
            ],
        )
    ]
    # What is published before the subscriber is known is lost to it; health comes each second.
    subscriber.wait_for(lambda received: bool(received.fresh(public.Health)))
    recorded = tmp_path / "recorded.wav"
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "capture", "--source", "mic", "--seconds", "9"),
            *("--record", str(recorded), "--hub", hub, "--features", features),
            *("--bundle", str(BUNDLE)),
        ],
        cwd=ROOT,
        env={**os.environ, **microphone.env},
        stderr=subprocess.PIPE,
        text=True,
    ) as capture:
        assert capture.stderr is not None
        assert "recording from" in capture.stderr.readline()
        microphone.play(clip(6.0)).wait(PATIENCE_S)
        assert capture.wait(PATIENCE_S) == 0
    expected = offline(recorded)
    subscriber.wait_for(lambda received: len(received.stream()) >= len(expected))
    for stage in stages:
        stage.terminate()
        stage.wait(PATIENCE_S)
    assert subscriber.finish().stream() == expected
    assert any(row["kind"] == "utterance" for row in expected)


def test_results_arrive_within_a_second_of_their_window(
    supervise: Supervise, microphone: VirtualMicrophone
) -> None:
    running = supervise("--source=mic", env=microphone.env)
    unix_offset = time.time() - time.monotonic()

    def latencies(received: Received) -> list[float]:
        return [
            received_at + unix_offset - message.time
            for message, replay, received_at in received.messages
            if isinstance(message, public.Result) and not replay and message.time is not None
        ]

    # A busy machine delays some results; a pipeline that held them back would delay all.
    # The anchor is the least delayed block so far; a later block may have less delay.
    running.subscriber.wait_for(
        lambda r: len(known := latencies(r)) >= 6 and any(-0.02 < one < 1.0 for one in known)
    )
    running.process.terminate()
    code, stderr, _ = running.ended()
    assert code == 0, stderr


def test_two_streams_of_one_stereo_device_are_its_channels(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    speech, rate = soundfile.read(clip(6.0), dtype="float32")
    path, config = tmp_path / "stereo.wav", tmp_path / "box.toml"
    soundfile.write(path, np.stack([speech, 0.0 * speech], axis=1), rate)
    config.write_text(
        "[[stream]]\nname = 'left'\nsource = 'mic'\nchannel = 0\n"
        "[[stream]]\nname = 'right'\nsource = 'mic'\nchannel = 1\n"
    )
    with VirtualMicrophone(rate, 2) as mic:
        recordings = tmp_path / "recordings"
        running = supervise("--config", str(config), f"--record={recordings}", env=mic.env)
        running.subscriber.wait_for(
            lambda r: bool(r.fresh(public.Result, "left") and r.fresh(public.Result, "right"))
        )
        mic.play(path).wait(PATIENCE_S)
        running.process.terminate()
        code, stderr, received = running.ended()
    assert code == 0, stderr
    assert any(result.state == "speech" for result in received.fresh(public.Result, "left"))
    assert all(result.rms_db == -100.0 for result in received.fresh(public.Result, "right"))
    for name in ("left", "right"):
        alone = offline(recordings / name)
        assert received.stream(name) == [{**row, "stream": name} for row in alone]


@pytest.mark.parametrize(("mix", "state"), [("flip", "live"), ("mean", "cancelled")])
def test_an_inverted_side_is_heard_or_reported(
    supervise: Supervise, tmp_path: Path, mix: str, state: str
) -> None:
    sound, rate = noise(tmp_path, 16000).pcm, 16000
    path, config = tmp_path / "played.wav", tmp_path / "box.toml"
    soundfile.write(path, np.concatenate([sound, -sound], axis=1), rate)
    config.write_text(f"[[stream]]\nsource = 'mic'\nmix = '{mix}'\n")
    with VirtualMicrophone(rate, 2) as mic:
        running = supervise("--config", str(config), env=mic.env)
        mic.play(path)

        def seen() -> bool:
            rows = [h.streams[0] for h in running.received.fresh(public.Health) if h.streams]
            return any(row.state == state and "invert" in (row.reason or "") for row in rows)

        wait_until(seen, "the inverted side")
        count = len(running.received.fresh(public.Result))
        running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= count + 6)
        levels = [r.rms_db for r in running.received.fresh(public.Result)[count:]]
        running.process.terminate()
        assert running.ended()[0] == 0
    assert (max(levels) > -40.0) == (mix == "flip")


def test_a_killed_capture_declares_its_gap(
    supervise: Supervise, microphone: VirtualMicrophone
) -> None:
    running = supervise("--source=mic", env=microphone.env)
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    running.stages()["capture"].kill()
    Watched(running).wait_heard_again()
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [result.seq for result in results] == list(range(len(results)))
    assert any(result.state == "gap" for result in results)
    reports = received.fresh(public.Health)
    overruns = [
        report.counters.get(name)
        for report in reports
        for name in ("capture_xruns", "capture_frames_dropped")
    ]
    (restarts,) = (row.restarts for row in reports[-1].stages if row.name == "capture")
    # A busy machine has more of both: a sound server that it does not run is a lost device.
    assert reports[-1].streams[0].gaps == restarts >= 1 or any(overruns)
    # The sample index keeps time: as many samples as seconds have passed.
    assert abs(drift_s(results)) < 0.06


def test_an_absent_device_is_one_line_that_lists_the_devices(
    supervise: Supervise, microphone: VirtualMicrophone
) -> None:
    code, stderr, _ = supervise("--source=mic:nightingale", env=microphone.env).ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert "nightingale" in line
    assert "'pulse'" in line


def test_no_device_at_all_points_to_the_demo(supervise: Supervise, tmp_path: Path) -> None:
    nowhere = {"PULSE_SERVER": f"unix:{tmp_path}/nowhere", "HOME": str(tmp_path)}
    code, stderr, _ = supervise(env=nowhere).ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert "make demo" in line


def test_capture_waits_for_an_absent_device(supervise: Supervise) -> None:
    mic = VirtualMicrophone()
    try:
        running = supervise(env={**mic.env, "SEP_CAPTURE__WAIT_FOR_DEVICE": "true"})
        wait_until(
            lambda: any(
                "waiting" in (stage.reason or "")
                for health in running.received.fresh(public.Health)
                for stage in health.stages
            ),
            "capture to report that it waits",
        )
        mic.start()
        running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
        running.process.terminate()
        code, stderr, _ = running.ended()
        assert code == 0, stderr
    finally:
        mic.close()


def test_a_lost_device_is_reported_and_opened_again(supervise: Supervise) -> None:
    mic = VirtualMicrophone()
    try:
        mic.start()
        running = supervise("--source=mic", env=mic.env)
        running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
        seen = Watched(running)
        seen.wait_for("live")
        mic.kill()
        seen.wait_for("lost", "recovering")
        mic.start()
        seen.wait_heard_again()
        running.process.terminate()
        code, stderr, received = running.ended()
        assert code == 0, stderr
        assert any(result.state == "gap" for result in received.fresh(public.Result))
    finally:
        mic.close()


def test_a_missing_portaudio_names_its_package(tmp_path: Path) -> None:
    # sounddevice raises this at import where the library is not installed.
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    finished = subprocess.run(
        [sys.executable, "-m", "capture", "--list-devices"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert "apt-get install libportaudio2" in line


def test_a_capture_that_was_stopped_for_a_while_keeps_time(
    supervise: Supervise, microphone: VirtualMicrophone
) -> None:
    running = supervise("--source=mic", env=microphone.env)
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    capture = running.stages()["capture"]
    capture.suspend()
    time.sleep(0.7)
    with contextlib.suppress(psutil.NoSuchProcess):  # the supervisor kills it after 2.5 s
        capture.resume()
    seen = running.received.fresh(public.Result)[-1].seq
    running.subscriber.wait_for(lambda r: r.fresh(public.Result)[-1].seq > seen + 8)
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [result.seq for result in results] == list(range(len(results)))
    # Whether the sound server kept the samples or dropped them: samples and seconds agree.
    assert abs(drift_s(results)) < 0.1
