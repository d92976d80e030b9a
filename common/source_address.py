"""Network sources as text: their kinds, and how to show them without credentials."""

from __future__ import annotations

import os
import re
import sys
from urllib.parse import unquote

FFMPEG_URLS = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "srt")
"""Schemes of the sources that ffmpeg reads."""
FFMPEG_KINDS = (*FFMPEG_URLS, "ffmpeg")
LIVE_KINDS = ("mic", "pipewire", "listen", "wyoming", *FFMPEG_KINDS)
"""Kinds of sources that do not wait: what is not read in time is missing."""
HIDDEN = "***"
SHORTEST = 3
"""Shortest secret that is replaced outside a URL: a shorter one is a part of many words."""

_USER = re.compile(r"(?<=://)[^/?#\s'\"]*@")
_QUERY = re.compile(r"\?[^\s'\"]*")
_VALUE = re.compile(r"=[^&;]*")
_OPTION = re.compile(
    r"(-(?:headers|cookies|\w*pass\w*|\w*key\w*|\w*token\w*|\w*secret\w*|auth\w*|user(?:name)?)\s+)"
    r"('[^']*'|\"[^\"]*\"|\S+)"
)


def is_live(source: str) -> bool:
    """Whether a source does not wait."""
    return source.partition(":")[0] in LIVE_KINDS


def shown(text: str) -> str:
    """A source, or a text that quotes one, without user names, passwords and tokens.

    User and password before the host are removed. Values in the query of a URL become `***`, and
    so do the values of ffmpeg's options for passwords, keys and headers.
    """
    if "://" in text:
        text = _USER.sub("", text)
        text = _QUERY.sub(lambda query: _VALUE.sub(f"={HIDDEN}", query[0]), text)
    if text.startswith("ffmpeg:"):
        text = _OPTION.sub(rf"\1{HIDDEN}", text)
    return text


def secrets_of(source: str) -> tuple[str, ...]:
    """What `shown` removes from a source, as it may appear elsewhere; the longest first."""
    found: set[str] = set()
    for user in _USER.findall(source):
        found |= {user[:-1], *user[:-1].split(":", 1)}
    for query in _QUERY.findall(source):
        found |= {value[1:] for value in _VALUE.findall(query)}
    if source.startswith("ffmpeg:"):
        found |= {value.strip("'\"") for _, value in _OPTION.findall(source)}
    found |= {unquote(secret) for secret in found}
    return tuple(sorted((s for s in found if len(s) >= SHORTEST), key=len, reverse=True))


def without_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """A text of another program, such as an error of ffmpeg, without the secrets of a source."""
    text = shown(text)
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def hide_arguments() -> None:
    """Remove credentials from the command line of this process, which all users can read."""
    if any("://" in word and shown(word) != word for word in sys.argv):
        os.environ.setdefault("SPT_NOENV", "1")  # keep the environment readable for `ps e`
        import setproctitle

        setproctitle.setproctitle(" ".join(map(shown, [sys.executable, *sys.argv])))
