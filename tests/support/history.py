"""Results and utterances with times, for the history."""

from __future__ import annotations

import dataclasses

from speech_emotion.common.wire import public
from tests.support.publisher import result

T0 = 1_800_000_000.0


def make_result(
    seq: int, *, speech: bool = True, stream: str = "main", run: str = "a"
) -> public.Result:
    """A result with a time; each window ends half a second after the one before."""
    quiet = dataclasses.replace(result(seq, stream=stream, run=run), time=T0 + 0.5 * (seq + 1))
    if not speech:
        return quiet
    angry = 0.25 + 0.5 * (seq % 2)
    probabilities = {"angry": angry, "sad": 1.0 - angry}
    return dataclasses.replace(
        quiet,
        state="speech",
        emotion="angry" if angry > 0.5 else "sad",
        confidence=max(angry, 1.0 - angry),
        probabilities=probabilities,
        smoothed=probabilities,
        rms_db=-20.0,
    )


def make_utterance(seq: int) -> public.Utterance:
    return public.Utterance(
        *("main", "a", seq, 8000 * seq, 8000 * seq + 24000, 16000, T0 + seq, "sad", 0.75),
        *({"angry": 0.25, "sad": 0.75}, None, 2, "none@00000000"),
    )
