"""`speech-emotion wyoming` between a client and a recognizer of the package `wyoming`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support import sound_servers
from tests.support.pipelines import Running, command, wait_until
from tests.support.sound_servers import Server, Sound, noise
from tests.support.watched import Watched
from tools.ports import free_port

pytest.importorskip("wyoming", reason="needs the extra `test`")
pytest.importorskip("websockets", reason="needs the extra `listen`")

RECOGNIZER = Path(__file__).parent.parent / "support" / "wyoming_recognizer.py"
CHUNK = 1024
Supervise = Callable[..., Running]


def passing(recognizer: int, to: str) -> Server:
    """The command between a client and the recognizer at a port."""
    port = free_port()
    words = [sys.executable, "-m", "speech_emotion", "wyoming"]
    words += ["--listen", f"127.0.0.1:{port}", "--recognizer", f"127.0.0.1:{recognizer}"]
    return Server(f"tcp://127.0.0.1:{port}", lambda: [[*words, "--to", to]], port)


@pytest.fixture
def recognizer() -> Iterator[int]:
    """A recognizer; its port."""
    port = free_port()
    words = [sys.executable, str(RECOGNIZER), str(port)]
    with Server("", lambda: [words], port):
        yield port


async def ask(url: str, sound: Sound, seconds: float) -> str:
    """What Home Assistant does: describe, an event of an unknown type, sound, the transcript."""
    from wyoming.asr import Transcribe, Transcript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.client import AsyncTcpClient
    from wyoming.event import Event
    from wyoming.info import Describe, Info

    port = int(url.rpartition(":")[2])
    clock = asyncio.get_running_loop()
    async with AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Describe().event())
        info = await client.read_event()
        assert info is not None
        assert Info.is_type(info.type)
        unknown = Event("x-of-the-future", {"größe": 1}, bytes(range(256)))
        await client.write_event(unknown)
        answer = await client.read_event()
        assert answer == unknown
        await client.write_event(Transcribe(language="de").event())
        await client.write_event(AudioStart(sound.rate, 2, 1).event())
        due = clock.time()
        for at in range(0, round(seconds * sound.rate), CHUNK):
            part = sound.pcm[at : at + CHUNK].tobytes()
            await client.write_event(AudioChunk(sound.rate, 2, 1, part).event())
            due += CHUNK / sound.rate
            await asyncio.sleep(max(0.0, due - clock.time()))
        await client.write_event(AudioStop().event())
        event = await client.read_event()
        assert event is not None
        return Transcript.from_event(event).text


@pytest.mark.filterwarnings("ignore:'audioop':DeprecationWarning")
def test_home_assistant_gets_its_transcript_and_the_pipeline_hears_it(
    supervise: Supervise, recognizer: int, tmp_path: Path
) -> None:
    sound, tape, port = noise(tmp_path, 16000), tmp_path / "tape", free_port()
    url = f"ws://127.0.0.1:{port}/assist"
    running = supervise(f"--source=listen:{url}", f"--record={tape}")
    wait_until(lambda: sound_servers.answers(port), "the port")
    seconds = 4.0
    chunks = -(-round(seconds * sound.rate) // CHUNK)
    sent = sound.pcm[: chunks * CHUNK].tobytes()
    expected = f"{len(sent)} {hashlib.sha256(sent).hexdigest()}"
    seen = Watched(running)
    with passing(recognizer, url) as between:
        for _ in range(2):  # two commands: between them the source is lost
            assert asyncio.run(ask(between.url, sound, seconds)) == expected
            seen.wait_for("live")
            seen.wait_for("lost", "recovering", word="closed")
    seen.end()
    samples, _ = soundfile.read(next((tape / "main").glob("*.flac")), dtype="int16")
    heard = len(sent) // 2
    np.testing.assert_array_equal(samples[:heard], sound.pcm[:heard, 0])
    np.testing.assert_array_equal(samples[-heard:], sound.pcm[:heard, 0])


def test_every_byte_is_forwarded_without_a_pipeline_too() -> None:
    chunk = {"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}}
    good = json.dumps({**chunk, "payload_length": 640}).encode() + b"\n" + bytes(640)
    forth = good * 20 + bytes(range(256)) * 4096 + b"\n{}\n" + good
    back = bytes(reversed(range(256))) * 8192
    with socket.create_server(("127.0.0.1", 0)) as listener:
        received = bytearray()

        def recognize() -> None:
            with listener.accept()[0] as peer:
                sender = threading.Thread(target=peer.sendall, args=(back,))
                sender.start()
                while content := peer.recv(65536):
                    received.extend(content)
                sender.join()

        server = threading.Thread(target=recognize)
        server.start()
        nowhere = f"ws://127.0.0.1:{free_port()}/assist"
        with passing(listener.getsockname()[1], nowhere) as between:
            port = int(between.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as client:
                sender = threading.Thread(target=client.sendall, args=(forth,))
                sender.start()
                answer = bytearray()
                while len(answer) < len(back):
                    content = client.recv(65536)
                    assert content
                    answer.extend(content)
                sender.join()
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""  # the recognizer has seen the end, and closed
            server.join()
    assert bytes(answer) == back
    assert bytes(received) == forth


def test_a_mistake_is_one_line() -> None:
    to = "ws://127.0.0.1:1/assist"
    for words, what in (
        (("--recognizer", "10300", "--to", to), "HOST:PORT"),
        (("--recognizer", "127.0.0.1:10300", "--to", "http://x/y"), "ws://HOST:PORT/NAME"),
        (("--recognizer", "127.0.0.1:10300", "--to", to, "--ca", "/nowhere"), "--ca /nowhere"),
        (("--recognizer", "127.0.0.1:10300", "--to", to, "--listen", "192.0.2.1:9"), "--listen"),
    ):
        done = command("wyoming", *words)
        assert done.returncode == 2
        assert what in done.stderr
        assert done.stderr.count("\n") == 1
