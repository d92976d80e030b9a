"""`speech-emotion unmute`: listen again."""

from __future__ import annotations

from speech_emotion.commands.mute import ask_for


def main(words: list[str]) -> int:
    """Run `speech-emotion unmute`; returns the exit code, 1 where it is still muted.

    Raises:
        UserError: not exactly one pipeline runs.
    """
    return ask_for(words, muted=False)
