"""Messages of stages to the hub."""

from __future__ import annotations

from speech_emotion.common.wire import internal, public

OPEN = internal.Open("main", "run", "file:x", 16000, 16000, 8000)


def submit(seq: int, *, skipped: int = 0, ended: bool = False, run: str = "run") -> internal.Submit:
    result = public.Result(
        stream="main",
        run=run,
        seq=seq,
        start=seq * 8000,
        end=seq * 8000 + 16000,
        rate=16000,
        time=None,
        state="gap" if skipped else "silence",
        emotion=None,
        confidence=None,
        probabilities=None,
        smoothed=None,
        reason=None,
        rms_db=-100.0,
        lost=0,
        skipped=skipped,
        timing_ms={"features": 1.0, "infer": 1.0},
        bundle="b",
    )
    checkpoint = [float(seq)]
    return internal.Submit(
        "main", run, seq, None if ended else result, [], ended, checkpoint, {"at": seq}, 0.0
    )
