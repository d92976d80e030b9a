"""`speech-emotion demo`: run the pipeline on the demo recording."""

from __future__ import annotations

import runpy
import sys

from speech_emotion.common.paths import DEMO_CLIP


def main(words: list[str]) -> int:
    """Run `speech-emotion run --source file:DEMO` with further flags; returns the exit code."""
    sys.argv = ["speech-emotion run", "--source", f"file:{DEMO_CLIP}", *words]
    runpy.run_module("speech_emotion.supervisor", run_name="__main__")
    return 0
