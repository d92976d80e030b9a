"""Syntax of stream names, sources and endpoints."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from speech_emotion.common.errors import UserError
from speech_emotion.common.security.exposure import check_listen
from speech_emotion.common.source_address import FFMPEG_URLS, shown
from speech_emotion.common.wire.endpoint import check_host_name

STREAM_NAME = r"[a-z0-9_-]{1,40}"


ENDPOINT = r"(tcp://[^\s/:]+:\d{1,5}|tcp://\[[0-9a-fA-F:]+\]:\d{1,5}|ipc://[^@\s]\S*)"


BASELINES = ("off", "stream")


MAX_CHANNELS = 64


SOURCES = (
    "mic, mic:NAME, pipewire:NAME, file:PATH, stdin:RATE[:CHANNELS], replay:FOLDER, "
    "watch:FOLDER, "
    "a URL (rtsp, http, rtmp, udp, srt), ffmpeg:ARGUMENTS, listen:ws://HOST:PORT/NAME (or wss) "
    "listen:rtp://HOST:PORT/RATE[/CHANNELS] (or udp) or wyoming:HOST:PORT"
)


LISTEN_DEVICES = r"listen:wss?://([^\s/@]+)/[A-Za-z0-9_-]{1,40}"
LISTEN_DATAGRAMS = r"listen:(?:rtp|udp)://([^\s/@]+)/(\d{4,6})(?:/[1-8])?"


STDIN = r"stdin:(\d{4,6})(:\d{1,2})?"


def check_stream(name: str) -> str:
    """Raises UserError where `name` cannot be a stream's name."""
    if not re.fullmatch(STREAM_NAME, name):
        raise UserError(f"stream name {name!r} must be 1 to 40 of a-z, 0-9, _ and -")
    return name


def check_baseline(mode: str) -> str:
    """Raises UserError where `mode` is no mode of the baseline."""
    if mode == "voice":
        raise UserError(
            "'voice' does not exist: the models cannot tell voices apart well enough; "
            f"allowed: {', '.join(BASELINES)}"
        )
    if mode not in BASELINES:
        raise UserError(f"{mode!r} is not known; allowed: {', '.join(BASELINES)}")
    return mode


def check_source(source: str) -> str:
    """Raises UserError where `source` is of no known kind."""
    kind, _, rest = source.partition(":")
    if source in ("mic", "pipewire") or (
        kind in ("file", "mic", "pipewire", "replay", "watch") and rest
    ):
        return source
    if (found := re.fullmatch(STDIN, source)) and 8000 <= int(found[1]) <= 192000:
        return source
    if kind in FFMPEG_URLS and rest.startswith("//"):
        return _check_url(source)
    if kind == "wyoming":
        check_listen(rest)
        return source
    if kind == "listen":
        return _check_listening(source)
    if kind == "ffmpeg" and rest:
        if not re.search(r"(^|\s)-i\s+\S", rest):
            raise UserError(f"source {shown(source)!r} has no input; write ffmpeg:… -i INPUT")
        return source
    raise UserError(f"source {shown(source)!r} is not known; allowed: {SOURCES}")


def _check_listening(source: str) -> str:
    """Raises UserError where a `listen:` source has no address, name or rate."""
    devices = re.fullmatch(LISTEN_DEVICES, source)
    datagrams = re.fullmatch(LISTEN_DATAGRAMS, source)
    found = devices or datagrams
    if found is None or (datagrams and not 8000 <= int(datagrams[2]) <= 192000):
        raise UserError(
            f"source {source!r} must be listen:ws://HOST:PORT/NAME, listen:wss://HOST:PORT/NAME, "
            "listen:rtp://HOST:PORT/RATE[/CHANNELS] or listen:udp://HOST:PORT/RATE[/CHANNELS]"
        )
    check_listen(found[1])
    return source


def _check_url(source: str) -> str:
    """Raises UserError where a URL has no host, no valid port, or characters that end it."""
    if not source.isprintable() or re.search(r"\s", source):
        raise UserError(f"source {shown(source)!r}: a URL holds no spaces; write %20")
    try:
        parts = urlsplit(source)
        complete = bool(parts.hostname or source.startswith("udp://@")) and parts.port != 0
    except ValueError:
        complete = False
    if not complete:
        raise UserError(
            f"a {source.partition(':')[0]} source must be SCHEME://HOST[:PORT]/PATH; "
            "in a user name or password write / as %2F, # as %23 and @ as %40"
        )
    check_host_name(parts.hostname or "")
    return source


def expand_path(path: Path) -> Path:
    """A path with its leading `~` or `~USER` expanded; raises ValueError for an unknown user."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: the home folder is unknown; write the whole path") from None


def expand_source(source: str) -> str:
    """A source with the leading `~` of its path expanded, which no shell does after `file:`."""
    kind, _, path = source.partition(":")
    return f"{kind}:{expand_path(Path(path))}" if path.startswith("~") else source


def check_channel(channel: object) -> int | tuple[int, ...] | None:
    """A channel, several different ones, or None; raises UserError where it is none of them."""
    chosen = list(channel) if isinstance(channel, list | tuple) else [channel]
    if channel is None:
        return None
    valid = [n for n in chosen if type(n) is int and 0 <= n < MAX_CHANNELS]
    if len(valid) < len(chosen) or len(set(valid)) < max(1, len(chosen)):
        raise UserError(
            f"channel {channel!r} must be 0 to {MAX_CHANNELS - 1}, or a list of different ones"
        )
    return valid[0] if channel is chosen[0] else tuple(valid)


def check_endpoint(endpoint: str) -> str:
    """Raises UserError where `endpoint` cannot be bound."""
    if not re.fullmatch(ENDPOINT, endpoint) or not endpoint.isprintable():
        raise UserError(
            f"endpoint {endpoint!r} is malformed; allowed: tcp://ADDRESS:PORT or ipc://PATH"
        )
    if endpoint.startswith("tcp://") and int(endpoint.rpartition(":")[2]) > 65535:
        raise UserError(f"endpoint {endpoint!r}: the port must be 0 to 65535")
    return endpoint
