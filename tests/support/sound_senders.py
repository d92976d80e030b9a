"""Further servers and senders of sound: HLS as processes, Wyoming, and devices that push."""

from __future__ import annotations

import shlex
import socket
import sys
from pathlib import Path

from tests.support.network_namespace import LOCAL, Site
from tests.support.pipelines import ROOT
from tests.support.sound_servers import Server, Sound, ffmpeg
from tools.ports import free_port

SUPPORT = Path(__file__).parent
HLS = (
    *("-c:a", "flac", "-strict", "-2", "-f", "hls", "-hls_time", "1", "-hls_list_size", "6"),
    *("-hls_flags", "delete_segments+omit_endlist", "-hls_segment_type", "fmp4"),
)
TOKEN = "a-token-of-a-device"
"""What `websocket` sends; the pipeline needs it as SEP_LISTEN__TOKEN."""


def hls(sound: Sound, folder: Path, *, site: Site = LOCAL) -> Server:
    """Segments of FLAC in MP4 by ffmpeg, and a static server."""
    port = free_port()
    serve = [sys.executable, "-m", "http.server", str(port), "--bind", site.host]
    serve += ["-d", str(folder), "--protocol", "HTTP/1.1"]

    def commands() -> list[list[str]]:
        for old in folder.iterdir():
            old.unlink()
        return [serve, ffmpeg(sound, *HLS, str(folder / "sound.m3u8"))]

    return Server(f"http://{site.host}:{port}/sound.m3u8", commands, port, site)


def wyoming(sound: Sound, *, site: Site = LOCAL) -> Server:
    """A microphone by the package `wyoming`."""
    port = free_port()
    address, script = f"{site.host}:{port}", str(SUPPORT / "wyoming_microphone.py")
    words = [sys.executable, script, address, str(sound.path)]
    return Server(f"wyoming:{address}", lambda: [words], port, site)


def websocket(
    sound: Sound,
    *,
    site: Site = LOCAL,
    token: str = TOKEN,
    port: int | None = None,
    through: int | None = None,
) -> Server:
    """The example client, which ffmpeg feeds; `url` is the source that listens.

    Args:
        port: at which it listens; default: a free one.
        through: port to which the client connects instead, of a relay.
    """
    port = port or free_port()
    url = f"ws://{site.box}:{port}/device"
    play = shlex.join(ffmpeg(sound, "-f", "s16le", "pipe:1"))
    program = str(ROOT / "examples" / "push_audio.py")
    to = f"ws://{site.box}:{through or port}/device"
    push = shlex.join([sys.executable, program, to, "-", "--rate", str(sound.rate)])
    again = f"while :; do {play} | {push}; sleep 0.5; done"
    words = ["env", f"TOKEN={token}", "sh", "-c", again]
    return Server(f"listen:{url}", lambda: [words], None, site)


def rtp(sound: Sound, *, site: Site = LOCAL) -> Server:
    """ffmpeg that sends L16 in RTP."""
    address = f"{site.box}:{free_port(socket.SOCK_DGRAM)}"
    words = ffmpeg(sound, "-c:a", "pcm_s16be", "-f", "rtp", f"rtp://{address}")
    return Server(f"listen:rtp://{address}/{sound.rate}", lambda: [words], None, site)


def datagrams(sound: Sound, *, site: Site = LOCAL) -> Server:
    """ffmpeg that sends datagrams of samples."""
    address = f"{site.box}:{free_port(socket.SOCK_DGRAM)}"
    url = f"udp://{address}?pkt_size=640"
    words = ffmpeg(sound, "-c:a", "pcm_s16le", "-f", "s16le", url)
    return Server(f"listen:udp://{address}/{sound.rate}", lambda: [words], None, site)
