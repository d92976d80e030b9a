"""One phrase from the last lines of ffmpeg."""

from __future__ import annotations

import pytest

from speech_emotion.capture.sources.network.connection import Retry
from speech_emotion.capture.sources.network.ffmpeg.messages import end_of


@pytest.mark.parametrize(
    ("lines", "code", "word", "retry"),
    [
        (
            [
                "[rtsp @ 0x5] method DESCRIBE failed: 401 Unauthorized",
                "pipe:0: Server returned 401",
            ],
            *(1, "user name or password", Retry.LATER),
        ),
        (
            [
                "[tcp @ 0x5] Connection to tcp://cam:1 failed: Connection refused",
                "pipe:0: Invalid data",
            ],
            *(1, "connection refused", Retry.SOON),
        ),
        (
            [
                "11:16:40/SRT:RcvQ:w1!W:SRT.cn: REJECT reported from HS processing: "
                "Incorrect passphrase - not processing further",
                "[srt @ 0x5] Connection to srt://h:1?passphrase=a failed: Input/output error",
            ],
            *(1, "refuses the passphrase", Retry.LATER),
        ),
        (
            [
                "[srt @ 0x5] failed to set option SRTO_PASSPHRASE on socket: Bad parameters",
                "srt://h:1?passphrase=short: Input/output error",
            ],
            *(1, "10 to 79 characters", Retry.NEVER),
        ),
        (["[http @ 0x5] HTTP error 404 Not Found"], 1, "no such stream", Retry.SOON),
        (["pipe:0: Invalid data found when processing input"], 1, "no sound", Retry.SOON),
        (["Unrecognized option 'foo'."], 1, "'foo'", Retry.NEVER),
        (["a new kind of trouble"], 1, "a new kind of trouble", Retry.SOON),
        ([], 0, "ended the stream", Retry.SOON),
        ([""], -9, "signal 9", Retry.SOON),
    ],
)
def test_reasons(lines: list[str], code: int, word: str, retry: Retry) -> None:
    end = end_of(lines, code, ())
    assert word in end.reason
    assert end.retry is retry


def test_a_reason_is_short_printable_and_without_secrets() -> None:
    line = "\x1b[31mrtsp://joe:hunter2@cam/x: odd hunter2 " + "x" * 1000
    reason = end_of([line], 1, ("hunter2",)).reason
    assert "hunter2" not in reason
    assert reason.isprintable()
    assert len(reason) <= 200
