"""Prosody of an utterance from its frames: F0 path, voiced share, level, syllables, pauses. Pure.

F0: the cheapest path through the candidates of all frames (Boersma, 1993) with Praat's costs.
Syllables: peaks of the level that follow a dip, where the voice is heard (de Jong, Wempe: Praat
script to detect syllable nuclei and measure speech rate automatically, 2009).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.prosody import (
    CANDIDATES,
    CEILING_HZ,
    F0_STEPS,
    FRAME,
    frames_per_hop,
    levels_db,
)
from speech_emotion.common.wire.public import Prosody

SILENCE_THRESHOLD = 0.03
VOICING_THRESHOLD = 0.45
OCTAVE_COST = 0.01
OCTAVE_JUMP_COST = 0.35
VOICED_UNVOICED_COST = 0.14
"""Praat's defaults; the last two hold for a step of 10 ms."""
COST_STEP_S = 0.01
SOUNDING_DB = 25.0
"""Frames farther below the loud ones are silent."""
LOUD_QUANTILE = 99.0
MIN_PAUSE_S = 0.25
MIN_SOUNDING_S = 0.1
"""Shorter sounds between silences are clicks."""
DIP_DB = 2.0
"""Least depth of the dip before a syllable."""
SMOOTHING = 3
"""Frames over which the level is averaged before syllables are counted."""
RANGE = (5.0, 95.0)
"""Percentiles of F0 that bound its range."""

Frames = NDArray[np.void]
Levels = NDArray[np.float64]
Flags = NDArray[np.bool_]


def extend(track: bytes, window: bytes, hops: int, hop: int, rate: int) -> bytes:
    """The track of an utterance with its next window.

    Args:
        track: so far.
        window: all frames of the window.
        hops: from the window before it to this one.
        hop, rate: of the stream, in samples.
    """
    size = hops * frames_per_hop(hop, rate) * FRAME.itemsize
    # Frames that no window with speech has are silent: zeros.
    return track + window[-size:].rjust(size, b"\0")


def prosody(track: bytes, hop: int, rate: int) -> Prosody | None:
    """The prosody of an utterance; None where no frame is sounding.

    Args:
        track: its frames, dtype `FRAME`.
        hop, rate: of the stream, in samples.
    """
    frames = np.frombuffer(track, FRAME)
    step = hop / frames_per_hop(hop, rate) / rate
    if not len(frames) or not frames["level"].any():
        return None
    levels = levels_db(frames)
    sounding = _sounding(levels, step)
    if not sounding.any():
        return None
    first, last = np.flatnonzero(sounding)[[0, -1]]
    span = slice(int(first), int(last) + 1)
    f0 = f0_path(frames, step)[span]
    levels, sounding = levels[span], sounding[span]
    pauses = [end - start for start, end in runs(~sounding)]
    paused = float(step * sum(pauses))
    spoken = step * len(f0) - paused
    voiced = f0[(f0 > 0.0) & sounding]
    low, high = np.percentile(voiced, RANGE) if len(voiced) else (None, None)
    power = np.power(10.0, levels[sounding] / 10.0)
    return Prosody(
        f0_hz=float(np.median(voiced)) if len(voiced) else None,
        f0_low_hz=None if low is None else float(low),
        f0_high_hz=None if high is None else float(high),
        voiced=len(voiced) / int(np.count_nonzero(sounding)),
        level_db=float(10.0 * np.log10(np.mean(power))),
        syllables_s=syllables(levels, f0 > 0.0, sounding) / spoken,
        pauses=len(pauses),
        pause_s=paused,
    )


def f0_path(frames: Frames, step: float) -> Levels:
    """F0 in Hz of every frame, 0 where it is unvoiced: the path of least cost.

    Args:
        frames: dtype `FRAME`, (n,).
        step: seconds from frame to frame.
    """
    f0 = frames["f0"] / F0_STEPS
    loudness = np.power(10.0, levels_db(frames) / 20.0)
    loudness /= loudness.max()
    unvoiced = VOICING_THRESHOLD + np.maximum(
        0.0, 2.0 - loudness * (1.0 + VOICING_THRESHOLD) / SILENCE_THRESHOLD
    )
    octaves = np.log2(np.maximum(f0, 1.0))
    strength = frames["strength"] / 255.0 - OCTAVE_COST * (np.log2(CEILING_HZ) - octaves)
    strength[f0 == 0.0] = -1e6
    gain = np.concatenate([unvoiced[:, np.newaxis], strength], axis=1)
    scale = COST_STEP_S / step
    cost = np.full((len(frames) - 1, CANDIDATES + 1, CANDIDATES + 1), VOICED_UNVOICED_COST * scale)
    cost[:, 0, 0] = 0.0
    jump = np.abs(octaves[:-1, :, np.newaxis] - octaves[1:, np.newaxis, :])
    cost[:, 1:, 1:] = OCTAVE_JUMP_COST * scale * jump
    chosen = _best_path(gain, cost)
    padded = np.concatenate([np.zeros((len(f0), 1)), f0], axis=1)
    path: Levels = padded[np.arange(len(f0)), chosen]
    return path


def _best_path(gain: Levels, cost: Levels) -> NDArray[np.int64]:
    """Viterbi: the states (n,) with the greatest sum of gains (n, states) less costs between."""
    total = gain[0].tolist()
    back = []
    states = range(len(total))
    # Lists: numpy takes longer than four states do.
    for own, between in zip(gain[1:].tolist(), cost.tolist(), strict=True):
        best, came = [], []
        for state in states:
            value, origin = max((total[i] - between[i][state], -i) for i in states)
            best.append(value + own[state])
            came.append(-origin)
        total = best
        back.append(came)
    state = max(states, key=lambda i: total[i])
    path = [state]
    for came in reversed(back):
        state = came[state]
        path.append(state)
    return np.array(path[::-1])


def _sounding(levels: Levels, step: float) -> Flags:
    """Which frames sound: no clicks, and no silence that is shorter than a pause."""
    sounding = levels >= np.percentile(levels, LOUD_QUANTILE) - SOUNDING_DB
    for start, end in runs(sounding):
        if (end - start) * step < MIN_SOUNDING_S:
            sounding[start:end] = False
    for start, end in runs(~sounding):
        inner = start > 0 and end < len(sounding)
        if inner and (end - start) * step < MIN_PAUSE_S:
            sounding[start:end] = True
    return sounding


def runs(flags: Flags) -> list[tuple[int, int]]:
    """Spans [start, end) of consecutive true values."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def syllables(levels: Levels, voiced: Flags, sounding: Flags) -> int:
    """Number of peaks of the level that are voiced and follow a dip of at least `DIP_DB`."""
    if len(levels) < SMOOTHING:
        return int(voiced.any())
    padded = np.pad(levels, SMOOTHING // 2, mode="edge")
    shifted = np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING)
    smooth = np.add.reduce(shifted, axis=1) / SMOOTHING
    count, low, high, at = 0, smooth[0], -np.inf, 0
    rising = True
    # A syllable ends where the level has fallen from its peak, and the next begins where it has
    # risen from the dip.
    for i, level in enumerate(smooth.tolist()):
        if rising:
            if level > high:
                high, at = level, i
            elif level < high - DIP_DB:
                count += bool(voiced[at] and sounding[at])
                rising, low = False, level
        elif level < low:
            low = level
        elif level > low + DIP_DB:
            rising, high, at = True, level, i
    return count + bool(rising and voiced[at] and sounding[at])
