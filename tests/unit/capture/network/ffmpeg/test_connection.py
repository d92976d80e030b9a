"""ffmpeg takes leave of its server; one that is stopped is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from pathlib import Path

import psutil
import pytest

from speech_emotion.capture.sources.network.ffmpeg.connection import FfmpegConnection, end_leaving
from tests.support import sound_servers
from tests.support.pipelines import PATIENCE_S, runs, wait_until

pytestmark = pytest.mark.skipif(not sound_servers.has_ffmpeg(), reason="needs ffmpeg")
SDP = "v=0\r\nm=audio 0 RTP/AVP 97\r\na=rtpmap:97 L16/16000\r\na=control:sound\r\n"
TRANSPORT = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
FURTHER = {"DESCRIBE": "Content-Type: application/sdp\r\n", "SETUP": TRANSPORT}


def unread(port: int) -> int:
    """Bytes that the clients of a TCP port have received and not read."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[2].endswith(f":{port:04X}"))


class Camera:
    """An RTSP server that answers one client and sends no sound.

    Attributes:
        methods: of the requests that it got.
    """

    def __init__(self) -> None:
        self.methods: list[str] = []
        self._answered: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = int(self._listener.getsockname()[1])
        self.url = f"rtsp://127.0.0.1:{self._port}/sound"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def plays(self) -> bool:
        """Whether the client has read the answer to its last request, which is to play."""
        return self._answered[-1:] == ["PLAY"] and not unread(self._port)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE_S)

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        # A client that ends before it has read an answer resets the connection.
        with (
            client,
            client.makefile("r", newline="") as requests,
            contextlib.suppress(ConnectionError),
        ):
            lines: list[str] = []
            for line in requests:
                lines.append(line.strip())
                if not lines[-1]:
                    client.sendall(self._answer(lines).encode())
                    self._answered.append(self.methods[-1])
                    lines = []

    def _answer(self, lines: list[str]) -> str:
        method = lines[0].partition(" ")[0]
        self.methods.append(method)
        (number,) = (line for line in lines if line.lower().startswith("cseq"))
        body = SDP if method == "DESCRIBE" else ""
        head = f"RTSP/1.0 200 OK\r\n{number}\r\n{FURTHER.get(method, '')}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n{body}"


def test_a_camera_gets_its_session_back() -> None:
    camera = Camera()
    connection = FfmpegConnection(camera.url)
    try:
        # A session that ffmpeg has not begun yet ends without a word.
        wait_until(lambda: camera.plays, "ffmpeg to play")
    finally:
        connection.close()
        camera.close()
    assert camera.methods[-1] == "TEARDOWN"


def test_a_stopped_ffmpeg_is_killed() -> None:
    camera = Camera()
    connection = FfmpegConnection(camera.url)
    wait_until(lambda: "PLAY" in camera.methods, "the request to play")
    (ffmpeg,) = (child for child in psutil.Process().children() if child.name() == "ffmpeg")
    os.kill(ffmpeg.pid, signal.SIGSTOP)
    wait_until(lambda: ffmpeg.status() == psutil.STATUS_STOPPED, "ffmpeg to be stopped")
    connection.close()
    assert ffmpeg.status() == psutil.STATUS_STOPPED  # not waited for
    end_leaving()
    wait_until(lambda: not runs(ffmpeg), "ffmpeg to be killed")
    camera.close()
