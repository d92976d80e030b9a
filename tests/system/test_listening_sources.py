"""Devices that push sound: WebSocket with the example clients and a browser, RTP by ffmpeg."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion.common.wire import public
from tests.support import opus_encoder, sound_servers
from tests.support.certificates import make_certificate
from tests.support.pages import shows
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until
from tests.support.sound_servers import Sound, noise
from tests.support.watched import Watched
from tools.browser import CHROMIUM, FLAGS
from tools.ports import free_port

websockets = pytest.importorskip("websockets", reason="needs the extra `listen`")

PATIENCE_MS = 1000.0 * PATIENCE_S
TOKEN = "a-token-of-a-device"
PUSH = ROOT / "examples" / "push_audio.py"
Supervise = Callable[..., Running]


@pytest.fixture
def push() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the example client; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(PUSH), *words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


Push = Callable[..., "subprocess.Popen[str]"]


def recorded(tape: Path, sound: Sound) -> None:
    """Check that the first second of a recording is sound that was sent."""
    samples, rate = soundfile.read(next((tape / "main").glob("*.flac")), dtype="int16")
    assert rate == sound.rate
    part = samples[:rate].reshape(-1, 1)
    assert sound.equals(sound.find(part), part)


def test_a_device_is_heard_lost_and_heard_again(
    supervise: Supervise, push: Push, tmp_path: Path
) -> None:
    sound, tape, port = noise(tmp_path, 16000), tmp_path / "tape", free_port()
    url = f"ws://127.0.0.1:{port}/kitchen"
    seen = Watched(supervise(f"--source=listen:{url}", f"--record={tape}"))
    seen.wait_for("lost", word="no device is connected")
    device = push(url, str(sound.path))
    seen.wait_live()
    device.send_signal(signal.SIGSTOP)  # as if its battery was taken out
    seen.wait_for("lost", "recovering", word="no samples")
    device.kill()
    again = push(url, str(sound.path))
    seen.wait_live()
    again.kill()
    seen.wait_for("lost", "recovering")
    results = seen.end()
    assert any(result.lost for result in results)
    recorded(tape, sound)


def test_two_devices_share_a_port_and_a_token(
    supervise: Supervise, push: Push, tmp_path: Path
) -> None:
    port, config = free_port(), tmp_path / "box.toml"
    rows = "".join(
        f"[[stream]]\nname = '{name}'\nsource = 'listen:ws://127.0.0.1:{port}/{name}'\n"
        for name in ("hall", "kitchen")
    )
    config.write_text(f"[listen]\ntoken = '{TOKEN}'\n{rows}")
    running = supervise("--config", str(config))
    sound = noise(tmp_path, 48000, 2)
    wait_until(lambda: sound_servers.answers(port), "the port")
    for name in ("hall", "kitchen"):
        push(f"ws://127.0.0.1:{port}/{name}", str(sound.path), TOKEN=TOKEN)
    running.subscriber.wait_for(
        lambda r: all(len(r.fresh(public.Result, n)) >= 3 for n in ("hall", "kitchen"))
    )
    refused = push(f"ws://127.0.0.1:{port}/hall", str(sound.path), TOKEN="x" * 20)
    assert refused.wait(PATIENCE_S) == 1
    assert refused.stderr is not None
    assert "token" in refused.stderr.read()
    unknown = push(f"ws://127.0.0.1:{port}/attic", str(sound.path), TOKEN=TOKEN)
    assert unknown.wait(PATIENCE_S) == 1
    running.process.terminate()
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert TOKEN not in stderr
    assert not any(TOKEN in str(message) for message, _, _ in received.messages)


def test_tls_with_a_certificate_of_ones_own(
    supervise: Supervise, push: Push, tmp_path: Path
) -> None:
    port, config = free_port(), tmp_path / "box.toml"
    certificate, key = make_certificate(tmp_path)
    config.write_text(
        f"[listen]\ncertificate = '{certificate}'\nprivate_key = '{key}'\n"
        f"[[stream]]\nsource = 'listen:wss://127.0.0.1:{port}/main'\n"
    )
    running = supervise("--config", str(config))
    wait_until(lambda: sound_servers.answers(port), "the port")
    sound = noise(tmp_path, 16000)
    push(f"wss://127.0.0.1:{port}/main", str(sound.path), "--ca", str(certificate))
    seen = Watched(running)
    seen.wait_live()
    context = ssl.create_default_context(cafile=str(certificate))
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as plain,
    ):
        plain.sendall(b"GET /main HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in plain.recv(4096)
    seen.end()


def test_a_foreign_page_cannot_connect_without_a_token(supervise: Supervise) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Origin

    port = free_port()
    running = supervise(f"--source=listen:ws://127.0.0.1:{port}/main")
    wait_until(lambda: sound_servers.answers(port), "the port")
    url = f"ws://127.0.0.1:{port}/main?rate=16000"
    with pytest.raises(InvalidStatus, match="401"):
        connect(url, origin=Origin("https://evil.example"), open_timeout=PATIENCE_S)
    for bad in ("?rate=1", "?channels=99", "?rate=x", "?stamps=x"):
        with pytest.raises(InvalidStatus, match="400"):
            connect(f"ws://127.0.0.1:{port}/main{bad}", open_timeout=PATIENCE_S)
    wait_until(lambda: second_is_refused(url), "a second device to be refused")
    running.process.terminate()
    assert running.ended()[0] == 0


def second_is_refused(url: str) -> bool:
    """Whether a device is refused while another one sends.

    After a second without sound the other one gives way: a busy machine takes longer at times.
    """
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.sync.client import connect

    try:
        with connect(url, open_timeout=PATIENCE_S) as first:
            first.send(bytes(640))
            try:
                connect(url, open_timeout=PATIENCE_S).close()
            except InvalidStatus as error:
                return error.response.status_code == 409
    except (OSError, WebSocketException):
        pass  # the one of the attempt before has not ended yet, or the first one gave way
    return False


@pytest.mark.skipif(opus_encoder.library() is None, reason="needs libopus")
def test_opus_is_decoded_exactly_and_its_gap_declared(supervise: Supervise, tmp_path: Path) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    sound, tape, port = noise(tmp_path, 16000), tmp_path / "tape", free_port()
    running = supervise(f"--source=listen:ws://127.0.0.1:{port}/main", f"--record={tape}")
    wait_until(lambda: sound_servers.answers(port), "the port")
    url = f"ws://127.0.0.1:{port}/main?codec=opus&stamps=1"
    for bad in ("&rate=44100", "&rate=16000&channels=3", "&codec=mp3"):
        with pytest.raises(InvalidStatus, match="400"):
            connect(
                url.replace("codec=opus&", "") + bad if "mp3" in bad else url + bad,
                open_timeout=PATIENCE_S,
            )
    packets = opus_encoder.encode(sound.pcm[: 6 * sound.rate], sound.rate)
    size, dropped = 320, range(200, 250)
    sent = [packet for number, packet in enumerate(packets) if number not in dropped]
    expected = opus_encoder.decode(sent, sound.rate, 1)[:, 0]
    seen = Watched(running)
    with connect(url, compression=None, open_timeout=PATIENCE_S) as device:
        # All at once, as after a delay of the network: in real time, a sender that a busy machine
        # does not run for 2.5 s would be a lost one.
        for number, packet in enumerate(packets):
            if number not in dropped:
                device.send((size * number).to_bytes(8, "little") + packet)
        device.send((size * len(packets)).to_bytes(8, "little") + b"\xff\xff no Opus")
        seen.wait_for("lost", "recovering", word="no Opus")
    running.subscriber.wait_for(lambda r: any(x.lost for x in r.fresh(public.Result)))
    assert any(result.lost for result in seen.end())
    samples, _ = soundfile.read(next((tape / "main").glob("*.flac")), dtype="int16")
    before, missing = dropped.start * size, len(dropped) * size
    np.testing.assert_array_equal(samples[:before], expected[:before])
    assert not samples[before : before + missing].any()
    after = samples[before + missing : len(packets) * size]
    np.testing.assert_array_equal(after, expected[before:])


@pytest.mark.costly_cases
@pytest.mark.parametrize("scheme", ["rtp", "udp"])
@pytest.mark.skipif(not sound_servers.has_ffmpeg(), reason="needs ffmpeg")
def test_datagrams_are_heard(supervise: Supervise, tmp_path: Path, scheme: str) -> None:
    sound, tape = noise(tmp_path, 16000), tmp_path / "tape"
    port = free_port(socket.SOCK_DGRAM)
    form = ["-c:a", "pcm_s16be", "-f", "rtp", f"rtp://127.0.0.1:{port}"]
    if scheme == "udp":
        form = ["-c:a", "pcm_s16le", "-f", "s16le", f"udp://127.0.0.1:{port}?pkt_size=640"]
    words = ["ffmpeg", "-nostdin", "-re", "-stream_loop", "-1", "-i", str(sound.path), *form]
    seen = Watched(
        supervise(f"--source=listen:{scheme}://127.0.0.1:{port}/16000", f"--record={tape}")
    )
    seen.wait_for("lost", word="nothing has arrived")
    for _ in range(2):
        sender = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            seen.wait_live()
        finally:
            sender.kill()
            sender.wait()
        seen.wait_for("lost", "recovering", word="no samples")
    assert any(result.lost for result in seen.end())
    recorded(tape, sound)


@pytest.fixture
def browser_microphone(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Opens a page in Chromium whose microphone plays noise, and presses its button."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: deploy/setup.sh dev installs it")
    sound = noise(tmp_path, 48000)
    with contextlib.ExitStack() as stack:
        playwright = stack.enter_context(api.sync_playwright())

        def open_page(url: str, *, opus: bool = False) -> None:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                timeout=PATIENCE_MS,
                args=[
                    *FLAGS,
                    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
                    f"--use-file-for-fake-audio-capture={sound.path}",
                ],
            )
            stack.callback(browser.close)
            page = browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(url)
            if opus:
                page.check("#opus")
            page.click("#button")
            shows(page, "#state", "Connected.")

        yield open_page


@pytest.mark.parametrize("opus", [False, True])
def test_a_browser_sends_its_microphone(
    supervise: Supervise, browser_microphone: Callable[..., None], tmp_path: Path, opus: bool
) -> None:
    port, tape = free_port(), tmp_path / "tape"
    running = supervise(f"--source=listen:ws://127.0.0.1:{port}/phone", f"--record={tape}")
    wait_until(lambda: sound_servers.answers(port), "the port")
    browser_microphone(f"http://127.0.0.1:{port}/phone", opus=opus)
    seen = Watched(running)
    seen.wait_live()
    results = seen.end()
    assert max(result.rms_db for result in results) > -40.0
    samples, _ = soundfile.read(next((tape / "main").glob("*.flac")))
    assert np.std(samples[-8000:]) > 0.01
