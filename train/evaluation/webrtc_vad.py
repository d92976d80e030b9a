"""WebRTC's voice detector in the place of the network's speech head: what each is worth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.extractor import windows_of
from speech_emotion.train.data.clips import Samples

MODE = 3
"""Its strictest."""
FRAME_S = 0.03


def voiced(samples: Samples, spec: FeatureSpec, mode: int = MODE) -> NDArray[np.float32]:
    """The share of each window's frames that WebRTC's detector calls voice, (windows,).

    The detector follows the noise, so it hears the whole stream once, in order.

    Raises:
        UserError: the package is not installed, or it does not know the sample rate.
    """
    try:
        import webrtcvad  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError("--webrtc needs the package webrtcvad-wheels") from None
    rate = spec.sample_rate
    if rate not in (8000, 16000, 32000, 48000):
        raise UserError(f"WebRTC's detector takes 8, 16, 32 or 48 kHz, not {rate} Hz")
    detector = webrtcvad.Vad(mode)
    frame = round(FRAME_S * rate)
    whole = np.round(np.clip(samples, -1.0, 32767 / 32768) * 32768).astype("<i2")
    frames = whole[: len(whole) // frame * frame].reshape(-1, frame)
    said = np.array([detector.is_speech(f.tobytes(), rate) for f in frames], np.float32)
    found = []
    for k, window in windows_of(samples, WindowGrid(spec.window, spec.hop)):
        first = k * spec.hop // frame
        inside = said[first : max(first + 1, (k * spec.hop + len(window)) // frame)]
        found.append(float(inside.mean()) if len(inside) else 0.0)
    return np.array(found, np.float32)


def in_place_of(
    outputs: NDArray[np.float32], voices: NDArray[np.float32], kind: list[str]
) -> NDArray[np.float32]:
    """A model's outputs (speech windows, size) with the detector's word as their last value."""
    changed = outputs.copy()
    changed[:, -1] = voices[[k == "speech" for k in kind]]
    return changed
