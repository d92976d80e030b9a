"""`speech-emotion devices`: list the input devices."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
List the input devices of this machine. The default one is marked with `*`.

The first column is the source to give: speech-emotion run --source "mic:NAME"."""


def main(words: list[str]) -> int:
    """Print one line per device; returns 1 if there is none."""
    from speech_emotion.common.stage.main import Parser

    Parser(
        prog="speech-emotion devices",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(words)
    from speech_emotion.capture.__main__ import list_devices

    return list_devices()
