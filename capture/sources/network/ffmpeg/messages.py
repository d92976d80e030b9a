"""What ffmpeg writes to stderr: one phrase for `health`, and when to connect again."""

from __future__ import annotations

import re
from collections.abc import Sequence

from speech_emotion.capture.sources.network.connection import End, Retry
from speech_emotion.common.connection_error import (
    closed,
    no_route,
    refused,
    timed_out,
    unknown_name,
)
from speech_emotion.common.errors import printable
from speech_emotion.common.source_address import without_secrets

LONGEST = 200
"""Longest reason in characters."""
_PREFIX = re.compile(r"^(\[[^\]]*\] )+")
TIMED_OUT = End(timed_out())
NO_SOUND = "what it sends is no sound that ffmpeg knows"
_KNOWN: tuple[tuple[str, str, Retry], ...] = (
    (
        r"unrecognized option|option .* not found|error splitting|no such filter|"
        r"unknown (input|encoder|decoder)|protocol not found|missing argument|at least one",
        *("", Retry.NEVER),
    ),
    (r"\b401\b|unauthorized", "the server refuses the user name or password (401)", Retry.LATER),
    (
        r"incorrect passphrase|password required",
        *("the server refuses the passphrase, or wants one", Retry.LATER),
    ),
    (r"SRTO_PASSPHRASE", "a passphrase of SRT has 10 to 79 characters", Retry.NEVER),
    (r"\b403\b|forbidden", "the server refuses access (403)", Retry.LATER),
    (r"\b404\b|not found", "the server has no such stream (404)", Retry.SOON),
    (r"\b50[0-9]\b|5XX", "the server reports a fault of its own (5xx)", Retry.SOON),
    (r"connection refused", refused(), Retry.SOON),
    (
        r"name or service not known|failed to resolve|failure in name",
        *(unknown_name(), Retry.SOON),
    ),
    (
        r"network is unreachable|no route to host",
        *(no_route(), Retry.SOON),
    ),
    (r"timed out|timeout|cannot read rtmp handshake", TIMED_OUT.reason, Retry.SOON),
    (
        r"connection reset|broken pipe|input/output error|end of file",
        *(closed(), Retry.SOON),
    ),
    (
        r"already in use|bind failed",
        *("the port is in use by another program", Retry.SOON),
    ),
    (r"matches no streams|does not contain any stream", "the source has no sound", Retry.SOON),
    (
        r"invalid data found|could not find codec parameters|moov atom",
        *(NO_SOUND, Retry.SOON),
    ),
)
"""Pattern → phrase and retry; an empty phrase stands for ffmpeg's own line."""


HUNG_S = 2.4
"""ffmpeg's RTSP client reports a server that sends nothing as invalid data, after its timeout."""


def end_of(
    lines: Sequence[str],
    exit_code: int | None,
    secrets: tuple[str, ...] = (),
    without_sound_s: float = 0.0,
) -> End:
    """Why ffmpeg ended.

    Args:
        lines: its last lines on stderr, the newest last.
        exit_code: its exit code; None: unknown.
        secrets: of the source, to be removed from the lines.
        without_sound_s: seconds from its start, where it gave no sound; else 0.
    """
    plain = [_PREFIX.sub("", without_secrets(line, secrets)).strip() for line in lines]
    for pattern, phrase, retry in _KNOWN:
        for line in reversed(plain):
            if re.search(pattern, line, re.IGNORECASE):
                if phrase == NO_SOUND and without_sound_s >= HUNG_S:
                    return TIMED_OUT
                return End(phrase or _short(f"ffmpeg says: {line}"), retry)
    if exit_code == 0 or not any(plain):
        if exit_code is not None and exit_code < 0:
            return End(f"ffmpeg was killed by signal {-exit_code}")
        return End("the server ended the stream")
    return End(_short(f"ffmpeg says: {next(line for line in reversed(plain) if line)}"))


def _short(text: str) -> str:
    return printable(text)[:LONGEST]
