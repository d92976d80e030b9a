"""Real servers of sound on loopback: RTSP, Icecast, HLS, RTMP, SRT, UDP."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from speech_emotion.common.closing import Closing
from speech_emotion.common.linux.parent_death import die_with_parent
from tests.support.network_namespace import LOCAL, Site
from tests.support.pipelines import PATIENCE_S
from tools.ports import free_port

SYSTEM_PYTHON = "/usr/bin/python3"
PASSWORD = "swordfish-4711"


def has_ffmpeg() -> bool:
    """Whether ffmpeg and ffprobe are installed."""
    return shutil.which("ffmpeg") is not None


@functools.cache
def has_rtsp_server() -> bool:
    """Whether GStreamer's RTSP server is installed for the system's Python."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0')"
    if not Path(SYSTEM_PYTHON).exists():
        return False
    return subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True).returncode == 0


def has_icecast() -> bool:
    """Whether Icecast is installed."""
    return shutil.which("icecast2") is not None


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a program listens at a TCP port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


LISTENING = "0A"
"""The state in /proc/net/tcp; see tcp_states.h of Linux."""


def listens(pid: int, port: int) -> bool:
    """Whether a program listens at a TCP port of IPv4 in the network namespace of a process."""
    with contextlib.suppress(FileNotFoundError):
        rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        return any(row[1].endswith(f":{port:04X}") and row[3] == LISTENING for row in rows)
    return False


class Server(Closing):
    """A server process that can be started, killed, stopped (SIGSTOP) and continued.

    Args:
        commands: of its processes.
        port: at which the first one listens; None: none.
        site: where it runs.

    Attributes:
        url: what a client opens.
    """

    def __init__(
        self,
        url: str,
        commands: Callable[[], list[list[str]]],
        port: int | None,
        site: Site = LOCAL,
    ) -> None:
        self.url = url
        self._site = site
        self._commands = commands
        self._port = port
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> Self:
        """Start it and, where it listens at a TCP port, wait until it does."""
        for number, words in enumerate(self._commands()):
            self._processes.append(
                subprocess.Popen(
                    [*self._site.prefix, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    process_group=0,
                    preexec_fn=die_with_parent,
                )
            )
            if number == 0 and self._port is not None:
                self._await(self._processes[0], self._port)
        return self

    def _await(self, process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        # Without a connection: Icecast 2.4.4 crashes when a client disconnects while it starts.
        while not listens(process.pid, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.url}: the server did not start")
            time.sleep(0.02)

    def kill(self) -> None:
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes = []

    def freeze(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for process in self._processes:
            os.killpg(process.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def close(self) -> None:
        self.kill()


def noise(folder: Path, rate: int, channels: int = 1, seconds: float = 60.0) -> Sound:
    """A sound in which every moment can be recognized."""
    chance = np.random.default_rng(rate + channels)
    samples = chance.normal(0.0, 3000.0, (round(seconds * rate), channels))
    pcm = np.clip(np.rint(samples), -32767, 32767).astype("<i2")
    return _written(folder / f"noise-{rate}-{channels}.wav", pcm, rate)


def silence(folder: Path, rate: int, channels: int = 1, seconds: float = 60.0) -> Sound:
    """Nothing but zeros."""
    pcm = np.zeros((round(seconds * rate), channels), "<i2")
    return _written(folder / f"silence-{rate}-{channels}.wav", pcm, rate)


def _written(path: Path, pcm: NDArray[np.int16], rate: int) -> Sound:
    soundfile.write(path, pcm, rate)
    raw = path.with_suffix(".raw")
    raw.write_bytes(pcm.tobytes())
    return Sound(path, raw, pcm, rate)


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """Samples (frames, channels), as a WAV file and as a file without a header."""

    path: Path
    raw: Path
    pcm: NDArray[np.int16]
    rate: int

    @property
    def channels(self) -> int:
        return int(self.pcm.shape[1])

    def find(self, part: NDArray[np.int16]) -> int:
        """Frame of the sound at which a part of it (frames, channels) begins; it repeats."""
        key = part[:64, 0]
        doubled = np.concatenate([self.pcm[:, 0], self.pcm[: len(key), 0]])
        candidates = np.flatnonzero(doubled[: len(self.pcm)] == key[0])
        for at in candidates:
            if np.array_equal(doubled[at : at + len(key)], key):
                return int(at)
        raise AssertionError("the part is not in the sound")

    def equals(self, start: int, part: NDArray[np.int16]) -> bool:
        """Whether the sound, repeated, is `part` from the frame `start` on."""
        frames = (start + np.arange(len(part))) % len(self.pcm)
        return bool(np.array_equal(self.pcm[frames], part))


def rtsp(
    sound: Sound,
    *,
    password: str | None = None,
    port: int | None = None,
    site: Site = LOCAL,
) -> Server:
    """GStreamer's RTSP server; user `joe` where there is a password."""
    port = port or free_port()
    script = str(Path(__file__).with_name("rtsp_server.py"))
    words = [SYSTEM_PYTHON, script, site.host, str(port), str(sound.raw)]
    words += [str(sound.rate), str(sound.channels), *(["joe", password] if password else [])]
    login = f"joe:{password}@" if password else ""
    return Server(f"rtsp://{login}{site.host}:{port}/sound", lambda: [words], port, site)


def ffmpeg(sound: Sound, *output: str) -> list[str]:
    """ffmpeg that plays a sound in real time, again and again."""
    loop = ("-re", "-stream_loop", "-1", "-i", str(sound.path))
    return ["ffmpeg", "-nostdin", "-loglevel", "error", *loop, *output]


ICECAST = """\
<icecast><limits><sources>2</sources><burst-size>{burst}</burst-size></limits>
<authentication><source-password>source</source-password><admin-user>admin</admin-user>
<admin-password>{password}</admin-password></authentication>
<hostname>localhost</hostname>
<listen-socket><port>{port}</port><bind-address>{host}</bind-address></listen-socket>
<paths><basedir>{folder}</basedir><logdir>{folder}</logdir><webroot>/usr/share/icecast2/web</webroot>
<adminroot>/usr/share/icecast2/admin</adminroot></paths>
<logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog></logging>
{owner}{mount}</icecast>
"""
MOUNT = """\
<mount><mount-name>/sound.ogg</mount-name><authentication type="htpasswd">
<option name="filename" value="{folder}/listeners"/></authentication></mount>
"""


def icecast(
    sound: Sound,
    folder: Path,
    *,
    burst: int = 65536,
    site: Site = LOCAL,
    password: str | None = None,
) -> Server:
    """Icecast, and ffmpeg that sends it FLAC in Ogg.

    Args:
        folder: for its files; other users must be able to enter it.
        burst: bytes that a new client gets at once.
        password: of the listener `joe`; None: it lets all listen.
    """
    port = free_port()
    config = folder / "icecast.xml"
    root = Path("/proc/self").stat().st_uid == 0
    owner = (
        "<security><changeowner><user>nobody</user><group>nogroup</group></changeowner></security>"
        if root
        else ""
    )
    if root:  # Icecast refuses to run as root, and becomes another user
        folder.chmod(0o777)
    config.write_text(
        ICECAST.format(
            host=site.host,
            port=port,
            folder=folder,
            burst=burst,
            password=PASSWORD,
            owner=owner,
            mount="" if password is None else MOUNT.format(folder=folder),
        )
    )
    login = ""
    if password is not None:
        login = f"joe:{password}@"
        known = hashlib.md5(password.encode()).hexdigest()
        (folder / "listeners").write_text(f"joe:{known}\n")
    target = f"icecast://source:source@{site.host}:{port}/sound.ogg"
    send = ffmpeg(
        sound,
        "-c:a",
        "flac",
        "-content_type",
        "application/ogg",
        "-f",
        "ogg",
        "-page_duration",
        "20000",
    )
    commands = [["icecast2", "-c", str(config)], [*send, "-flush_packets", "1", target]]
    return Server(f"http://{login}{site.host}:{port}/sound.ogg", lambda: commands, port, site)


def rtmp(sound: Sound, *, site: Site = LOCAL) -> Server:
    """ffmpeg as an RTMP server with uncompressed sound, one process for each client."""
    port = free_port()
    url = f"rtmp://{site.host}:{port}/live/sound"
    words = ffmpeg(sound, "-c:a", "pcm_s16le", "-f", "flv", "-listen", "1", url)
    return Server(url, lambda: [_for_each_client(words, port)], None, site)


def srt(sound: Sound, *, site: Site = LOCAL, password: str | None = None) -> Server:
    """ffmpeg as an SRT server with TrueHD in MPEG-TS, for one client at a time.

    Args:
        password: the passphrase; None: it is not encrypted.
    """
    address = f"srt://{site.host}:{free_port(socket.SOCK_DGRAM)}"
    secret = "" if password is None else f"passphrase={password}"
    latency_us = 50_000 if site is LOCAL else 400_000  # later packets are dropped
    listen = f"{address}?mode=listener&latency={latency_us}"
    words = ffmpeg(sound, *LOSSLESS_TS, f"{listen}&{secret}" if secret else listen)
    url = f"{address}?{secret}" if secret else address
    return Server(url, lambda: [_again(words)], None, site)


def udp(sound: Sound, *, site: Site = LOCAL) -> Server:
    """ffmpeg that sends MPEG-TS with TrueHD in UDP packets."""
    url = f"udp://{site.box}:{free_port(socket.SOCK_DGRAM)}"
    return Server(url, lambda: [ffmpeg(sound, *LOSSLESS_TS, f"{url}?pkt_size=1316")], None, site)


LOSSLESS_TS = ("-c:a", "truehd", "-strict", "-2", "-f", "mpegts", "-flush_packets", "1")


def _again(words: list[str]) -> list[str]:
    """A command that starts again when it ends: ffmpeg serves one client only."""
    code = (
        "import ctypes, subprocess, sys\n"
        "die = lambda: ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
        "while True: subprocess.run(sys.argv[1:], preexec_fn=die)\n"
    )
    return [sys.executable, "-c", code, *words]


def _for_each_client(words: list[str], port: int) -> list[str]:
    """A command that starts one more when none listens at a TCP port: each serves one client."""
    code = (
        "import ctypes, subprocess, sys, time\n"
        "die = lambda: ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
        "port, *words = sys.argv[1:]\n"
        "def listens():\n"
        "    rows = [row.split() for row in open('/proc/self/net/tcp')]\n"
        "    return any(r[3] == '0A' and int(r[1][-4:], 16) == int(port) for r in rows[1:])\n"
        "servers = []\n"
        "while True:\n"
        "    servers = [server for server in servers if server.poll() is None]\n"
        "    if not listens():\n"
        "        servers.append(subprocess.Popen(words, preexec_fn=die))\n"
        "        until = time.monotonic() + 2.0\n"
        "        while not listens() and servers[-1].poll() is None and time.monotonic() < until:\n"
        "            time.sleep(0.02)\n"
        "    time.sleep(0.05)\n"
    )
    return [sys.executable, "-c", code, str(port), *words]


class Hls(Closing):
    """Segments of FLAC in MP4 by ffmpeg, and a static server in this process.

    Attributes:
        url: the playlist.
        login: what a client must send as `Authorization`, if anything.
    """

    def __init__(self, sound: Sound, folder: Path) -> None:
        self._folder = folder
        self._writer = Server(
            "",
            lambda: [
                ffmpeg(
                    sound,
                    *("-c:a", "flac", "-strict", "-2", "-f", "hls", "-hls_time", "1"),
                    *("-hls_list_size", "6", "-hls_flags", "delete_segments+omit_endlist"),
                    *("-hls_segment_type", "fmp4", str(folder / "sound.m3u8")),
                )
            ],
            None,
        )
        self._handler = functools.partial(_Quiet, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/sound.m3u8"

    def __enter__(self) -> Self:
        self._writer.start()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        deadline = time.monotonic() + PATIENCE_S
        while not (self._folder / "sound.m3u8").exists() or len(list(self._folder.iterdir())) < 5:
            if time.monotonic() > deadline:
                raise RuntimeError("the playlist was not written")
            time.sleep(0.05)
        return self

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._writer.kill()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
