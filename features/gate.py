"""The voice gate: selects the windows with speech. Only those are analysed and classified.

The gate measures levels, not voices: any sound that rises above the noise and changes as fast
as speech (music, a barking dog) opens it too.
"""

from __future__ import annotations

import enum
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.levels import SILENCE_DBFS, rms_dbfs

Samples = NDArray[np.float32]

FRAME_S = 0.02
BAND_HZ = (150.0, 4000.0)
"""Band of most of the power of speech. Rumble and mains hum lie below, much of the hiss above."""
SPEECH_DBFS = -70.0
"""Frames below this level are never speech, even in a quiet room."""
FLOOR_QUANTILE = 0.1
FLOOR_S = 3.0
"""The noise floor is the minimum over this time. Noise that becomes louder counts as speech for
about as long."""
BLOCK_S = 0.5
HYSTERESIS_DB = 3.0
RUN = 3
"""Least number of consecutive frames of speech; shorter runs are clicks."""
SPEECH_S = 0.16
"""Least duration of speech in a window, in one run or the sum of several."""

_UNKNOWN_DB = 100.0


class Gate(Protocol):
    """Decides for each window. Takes every window of a stream, in order."""

    def step(self, samples: Samples) -> bool:
        """Take the next window, shape (spec.window,). True if it is speech."""

    def state(self) -> list[float]:
        """A small checkpoint. A gate that restores it makes the same decisions, bit for bit."""

    def restore(self, state: list[float]) -> None:
        """Resume from a checkpoint of `state()`.

        Raises:
            ValueError: `state` is no checkpoint of this kind of gate; the gate is unchanged.
        """

    def reset(self) -> None:
        """Return to the state at the start of a stream."""


def make_gate(spec: FeatureSpec) -> Gate:
    """The gate that `spec.gate` names."""
    return AdaptiveGate(spec) if spec.gate == "adaptive" else FixedGate(spec)


class FixedGate:
    """The gate of the original engine: a window is speech if its RMS reaches `gate_dbfs`."""

    def __init__(self, spec: FeatureSpec) -> None:
        self._threshold = spec.gate_dbfs

    def step(self, samples: Samples) -> bool:
        level = rms_dbfs(samples)
        return level >= self._threshold and level > SILENCE_DBFS

    def state(self) -> list[float]:
        return []

    def restore(self, state: list[float]) -> None:
        if state:
            raise ValueError("a fixed gate has no state")

    def reset(self) -> None:
        pass


class State(enum.IntEnum):
    """State of the adaptive gate after a window. All states except `CLOSED` are speech."""

    CLOSED = 0
    OPEN = 1
    HOLD = 2


def transition(state: State, *, active: bool, quiet: int, hold: int) -> State:
    """The state after a window.

    Args:
        state: the state before the window.
        active: whether the window itself has enough speech.
        quiet: samples since the last frame of speech.
        hold: samples for which the gate stays open after the last frame of speech.
    """
    if active:
        return State.OPEN
    if state is not State.CLOSED and quiet <= hold:
        return State.HOLD
    return State.CLOSED


class AdaptiveGate:
    """A window is speech if enough of its frames rise above the noise floor.

    Level: power of 20 ms frames between 150 and 4000 Hz, in dBFS.

    Floor: the low quantile of the window's frame levels (Stahl, Fischer, Bippus: Quantile
    based noise estimation, ICASSP 2000), and of these the minimum over the last 3 s, kept
    as minima of blocks (Martin: Noise power spectral density estimation based on optimal
    smoothing and minimum statistics, IEEE TSAP 9(5), 2001). The pauses between syllables
    keep it low during speech without a break. The gate needs no assumption at the start: the
    levels of steady noise vary too little to rise above their own quantile, those of speech
    rise above it at once.

    Speech: frames at least `gate_margin_db` above the floor, 3 dB less while open, in runs
    longer than a click. After the last of them the gate stays open for `gate_hold_s`; a
    longer window still contains them itself.
    """

    def __init__(self, spec: FeatureSpec) -> None:
        self._frame = frame = round(FRAME_S * spec.sample_rate)
        self._frames = spec.window // frame
        self._taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).astype(np.float32)
        low, high = (round(edge * frame / spec.sample_rate) for edge in BAND_HZ)
        self._bins = slice(low, high + 1)
        self._scale = 2.0 / (frame * float(np.sum(np.square(self._taper, dtype=np.float64))))
        self._hop = spec.hop
        # Frames of a window that the previous window has too, where their positions agree.
        aligned = spec.hop % frame == 0
        self._shared = max(0, self._frames - spec.hop // frame) if aligned else 0
        self._shared_samples = np.zeros(self._shared * frame, np.float32)
        self._shared_power = np.zeros(self._shared)
        self._has_shared = False
        self._block = max(spec.hop, round(BLOCK_S * spec.sample_rate))
        self._blocks = math.ceil(FLOOR_S * spec.sample_rate / self._block)
        self._margin = spec.gate_margin_db
        self._hold = round(spec.gate_hold_s * spec.sample_rate)
        # Windows too short for SPEECH_S need speech in half of their frames.
        self._enough = max(RUN, min(round(SPEECH_S / FRAME_S), self._frames // 2))
        self.reset()

    def reset(self) -> None:
        self._state = State.CLOSED
        self._quiet = 0
        self._elapsed = 0
        self._minima = [_UNKNOWN_DB] * self._blocks

    def state(self) -> list[float]:
        return [float(self._state), float(self._quiet), float(self._elapsed), *self._minima]

    def restore(self, state: list[float]) -> None:
        if len(state) != 3 + self._blocks or not all(map(math.isfinite, state)):
            raise ValueError(f"an adaptive gate's state is {3 + self._blocks} finite numbers")
        name, quiet, elapsed = map(int, state[:3])
        if [name, quiet, elapsed] != state[:3] or min(quiet, elapsed) < 0:
            raise ValueError("an adaptive gate's state begins with three counts")
        self._state, self._quiet, self._elapsed = State(name), quiet, elapsed
        self._minima = [float(level) for level in state[3:]]

    def step(self, samples: Samples) -> bool:
        power = self._band_power(samples)
        levels = 10.0 * np.log10(np.maximum(power, 10.0 ** (SILENCE_DBFS / 10.0)))
        margin = self._margin - (HYSTERESIS_DB if self._state is not State.CLOSED else 0.0)
        threshold = max(SPEECH_DBFS, self._floor(levels[power > 0.0]) + margin)
        above = levels >= threshold
        runs = above[2:] & above[1:-1] & above[:-2]
        active = bool(np.count_nonzero(runs) > self._enough - RUN)
        if active:
            frames_after = self._frames - RUN - int(np.flatnonzero(runs)[-1])
            self._quiet = frames_after * self._frame
        else:
            self._quiet += self._hop
        self._state = transition(self._state, active=active, quiet=self._quiet, hold=self._hold)
        return self._state is not State.CLOSED

    def _band_power(self, samples: Samples) -> NDArray[np.float64]:
        """Mean square of every frame inside the band; the last frame ends with the window."""
        framed = samples[len(samples) - self._frames * self._frame :]
        length = len(self._shared_samples)
        known = self._shared if self._has_shared and self._continues(framed[:length]) else 0
        frames = framed[known * self._frame :].reshape(-1, self._frame)
        spectrum = np.fft.rfft(frames * self._taper)[:, self._bins]
        squares = np.square(spectrum.real) + np.square(spectrum.imag)
        power: NDArray[np.float64] = self._scale * squares.sum(axis=1, dtype=np.float64)
        if known:
            power = np.concatenate([self._shared_power, power])
        if self._shared:
            self._shared_samples[...] = framed[len(framed) - length :]
            self._shared_power[...] = power[self._frames - self._shared :]
            self._has_shared = True
        return power

    def _continues(self, samples: Samples) -> bool:
        """Whether samples have the bits that the end of the previous window has."""
        return bool(np.array_equal(samples.view(np.int32), self._shared_samples.view(np.int32)))

    def _floor(self, levels: NDArray[np.float64]) -> float:
        """Update and return the noise floor.

        Args:
            levels: levels of the frames that are not digital silence. Digital silence means a
                muted microphone or missing samples, and has no noise to measure.
        """
        if len(levels) >= min(10, self._frames):
            low = float(np.sort(levels)[int(FLOOR_QUANTILE * len(levels))])
            self._minima[0] = min(self._minima[0], low)
        floor = min(self._minima)
        self._elapsed += self._hop
        if self._elapsed >= self._block:
            self._elapsed = 0
            self._minima = [_UNKNOWN_DB, *self._minima[:-1]]
        return floor
