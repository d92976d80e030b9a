"""The command line of ffmpeg for a source, and the list that names the URL.

ffmpeg's command line can be read by every user of the machine, so a URL, which may hold a
password, is not on it: ffmpeg reads it from standard input, as the only entry of a list of its
`concat` demuxer.
"""

from __future__ import annotations

import dataclasses
import shlex

from speech_emotion.common.errors import UserError

NETWORK_TIMEOUT_US = 2_500_000
"""Longest wait of ffmpeg for its server, in microseconds: longer means that the network is cut."""
PROTOCOLS = (
    *("pipe", "file", "crypto", "data", "tcp", "tls", "udp", "udplite", "rtp", "srtp", "rtsp"),
    *("http", "https", "httpproxy", "hls", "rtmp", "rtmps", "rtmpt", "rtmpe", "ffrtmpcrypt"),
    *("ffrtmphttp", "srt", "unix"),
)
OPTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "rtsp": (
        # Through one TCP connection: nothing is lost, no further port has to be open. A server
        # that offers UDP only is asked for that.
        ("rtsp_flags", "prefer_tcp"),
        ("allowed_media_types", "audio"),
        ("timeout", str(NETWORK_TIMEOUT_US)),
    ),
    "http": (("rw_timeout", str(NETWORK_TIMEOUT_US)),),
    "rtmp": (
        *(("rw_timeout", str(NETWORK_TIMEOUT_US)), ("rtmp_live", "live")),
        # It does not say how many streams there are: ffmpeg waits for more until this has passed.
        ("analyzeduration", "500000"),
    ),
    "udp": (("timeout", str(NETWORK_TIMEOUT_US)), ("overrun_nonfatal", "1")),
    # An absent server refuses nothing, and one that starts meanwhile answers at once: a long wait
    # is better than many attempts.
    "srt": (("timeout", str(NETWORK_TIMEOUT_US)), ("connect_timeout", "6000")),
}
"""Options of the input by scheme."""
PROBING = (
    # The format of sound is known from its first packets; video is not analysed.
    *(("analyzeduration", "1000000"), ("fflags", "+nobuffer")),
)


@dataclasses.dataclass(frozen=True)
class Command:
    """How ffmpeg is started.

    Attributes:
        words: its command line without the program.
        listing: content of its standard input; None: nothing.
        stored: whether the server keeps sound in segments (HLS).
        stamped: whether time stamps tell what is missing. HTTP loses nothing, and the first time
            stamps of an Ogg stream that is joined in its middle are wrong.
    """

    words: tuple[str, ...]
    listing: str | None
    stored: bool
    stamped: bool = True


def command_for(source: str, packets: int) -> Command:
    """The command line for a source.

    Args:
        packets: descriptor to which ffmpeg writes the time stamps of its packets.

    Raises:
        UserError: the arguments of `ffmpeg:ARGUMENTS` have an unmatched quote.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "ffmpeg":
        try:
            chosen = shlex.split(rest)
        except ValueError:
            raise UserError("ffmpeg:ARGUMENTS: a quote is not closed") from None
        listing = None
    else:
        listing = _listing(source, scheme)
        allowed = ("-protocol_whitelist", ",".join(PROTOCOLS))
        chosen = ["-f", "concat", "-safe", "0", *allowed, "-i", "pipe:0"]
    mapped = () if "-map" in chosen else ("-map", "0:a:0")
    # One encoder, two outputs: samples, and one line per packet with its time stamp and size.
    tee = f"[f=f32le:flush_packets=1]pipe\\:1|[f=framecrc:flush_packets=1]pipe\\:{packets}"
    words = (
        *("-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning"),
        *chosen,
        *mapped,
        *("-vn", "-sn", "-dn", "-c:a", "pcm_f32le", "-f", "tee", tee),
    )
    stored = ".m3u8" in source
    return Command(words, listing, stored, stamped=stored or not scheme.startswith("http"))


def _listing(source: str, scheme: str) -> str:
    family = scheme.removesuffix("s") if scheme not in OPTIONS else scheme
    options = {**dict(PROBING), **dict(OPTIONS[family])}.items()
    lines = ["ffconcat version 1.0", f"file {_quoted(source)}"]
    lines += [f"option {name} {_quoted(value)}" for name, value in options]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
