"""Size of one day of history, and the time to read it: `python -m bench.history`."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.writer import HistoryWriter

DAY = 172_800
"""Windows per day at two per second."""
BATCH = 100
LABELS = ("angry", "happy", "neutral", "sad")


def window(seq: int, at: float, *, speech: bool) -> public.Result:
    """A result of a window of speech, or of silence."""
    draws = [random.random() for _ in LABELS]
    share = {x: draw / sum(draws) for x, draw in zip(LABELS, draws, strict=True)}
    label = max(share, key=lambda x: share[x])
    return public.Result(
        stream="living-room",
        run="621cb50dd21b5680",
        seq=seq,
        start=8000 * seq,
        end=8000 * seq + 16000,
        rate=16000,
        time=at,
        state="speech" if speech else "silence",
        emotion=label if speech else None,
        confidence=share[label] if speech else None,
        probabilities=share if speech else None,
        smoothed=share if speech else None,
        reason=None,
        rms_db=-70.0 + 50.0 * random.random(),
        lost=0,
        skipped=0,
        timing_ms={"total": 5.0 * random.random()},
        bundle="default@a2de3198",
        dimensions={"arousal": random.random()} if speech else None,
    )


def main() -> None:
    now = time.time()
    for share in (0.0, 0.2, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.sqlite"
            writer = HistoryWriter(path)
            begin, batch = now - DAY / 2, []
            for seq in range(DAY):
                speech = seq % 1000 < 1000 * share
                batch.append((window(seq, begin + seq / 2, speech=speech), 0.0))
                if len(batch) == BATCH:
                    writer.write(batch)
                    batch = []
            writer.close()
            size = path.stat().st_size / 1e6
            with HistoryReader(path) as reader:
                times = []
                for span in (3600.0, 86400.0):
                    before = time.perf_counter()
                    reader.windows("living-room", now - span, now, 1200)
                    times.append(time.perf_counter() - before)
        print(
            f"{share:4.0%} speech: {size:5.1f} MB a day; "
            f"an hour is read in {times[0] * 1000:.0f} ms, a day in {times[1] * 1000:.0f} ms"
        )


if __name__ == "__main__":
    main()
