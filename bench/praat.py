"""Prosody as Praat measures it: the reference of bench/prosody.py and of the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import parselmouth
from numpy.typing import NDArray
from parselmouth.praat import call

from speech_emotion.common.wire.public import Prosody

FLOOR_HZ, CEILING_HZ, STEP_S = 75.0, 600.0, 0.01
SOUNDING_DB, MIN_PAUSE_S, MIN_SOUNDING_S = -25.0, 0.25, 0.1
DIP_DB = 2.0


def measure(samples: NDArray[np.float64], rate: int) -> Prosody | None:
    """Prosody of a sound, (n,); None where Praat finds no sounding part.

    Pitch: To Pitch (ac) with its defaults. Pauses: To TextGrid (silences). Syllables: the peaks of
    intensity of de Jong and Wempe's script.
    """
    sound = parselmouth.Sound(samples, rate)
    spans = _sounding(sound)
    if not spans:
        return None
    begin, end = spans[0][0], spans[-1][1]
    pitch = sound.to_pitch_ac(time_step=STEP_S, pitch_floor=FLOOR_HZ, pitch_ceiling=CEILING_HZ)
    times, f0 = pitch.xs(), pitch.selected_array["frequency"]
    inside = np.any([(a <= times) & (times < b) for a, b in spans], axis=0)
    voiced = f0[inside & (f0 > 0.0)]
    quantiles = np.percentile(voiced, (50, 5, 95)).tolist() if len(voiced) else [None] * 3
    heard = np.concatenate([samples[round(a * rate) : round(b * rate)] for a, b in spans])
    paused = (end - begin) - sum(b - a for a, b in spans)
    return Prosody(
        f0_hz=quantiles[0],
        f0_low_hz=quantiles[1],
        f0_high_hz=quantiles[2],
        voiced=len(voiced) / max(1, int(np.count_nonzero(inside))),
        level_db=float(10.0 * np.log10(np.mean(np.square(heard)))),
        syllables_s=_syllables(sound, pitch, begin, end) / (end - begin - paused),
        pauses=len(spans) - 1,
        pause_s=paused,
    )


def _sounding(sound: Any) -> list[tuple[float, float]]:
    intensity = sound.to_intensity(minimum_pitch=100.0, time_step=STEP_S)
    grid = call(
        *(intensity, "To TextGrid (silences)", SOUNDING_DB, MIN_PAUSE_S, MIN_SOUNDING_S),
        *("silent", "sounding"),
    )
    spans = []
    for number in range(1, int(call(grid, "Get number of intervals", 1)) + 1):
        if call(grid, "Get label of interval", 1, number) == "sounding":
            edges = (call(grid, f"Get {edge} time of interval", 1, number) for edge in EDGES)
            spans.append(tuple(float(edge) for edge in edges))
    return spans  # type: ignore[return-value]


EDGES = ("start", "end")


def _syllables(sound: Any, pitch: Any, begin: float, end: float) -> int:
    """Syllable nuclei (de Jong, Wempe 2009), as their Praat script finds them."""
    intensity = sound.to_intensity(minimum_pitch=50.0, time_step=0.016)
    levels, times = intensity.values[0], intensity.xs()
    threshold = max(
        float(call(intensity, "Get quantile", 0.0, 0.0, 0.99)) + SOUNDING_DB, float(levels.min())
    )
    inner = levels[1:-1]
    found = 1 + np.flatnonzero((inner > levels[:-2]) & (inner >= levels[2:]) & (inner > threshold))
    peaks = [int(p) for p in found if begin <= times[p] <= end]
    count = 0
    for this, following in zip(peaks, [*peaks[1:], None], strict=True):
        dip = levels[this:following].min() if following is not None else levels[this:].min()
        there = call(pitch, "Get value at time", times[this], "Hertz", "Linear")
        count += bool(levels[this] - dip > DIP_DB and not np.isnan(there))
    return count
