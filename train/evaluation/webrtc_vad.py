"""WebRTC's voice activity detector as a replacement of the speech head, for comparison."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.extractor import windows_of
from speech_emotion.train.data.clips import Samples

MODE = 3
"""Aggressiveness 0 to 3; 3 rejects the most non-speech."""
FRAME_S = 0.03
RATES = (8000, 16000, 32000, 48000)


def voiced_share(samples: Samples, spec: FeatureSpec, mode: int = MODE) -> NDArray[np.float32]:
    """Share of each window's 30 ms frames that the detector classifies as voice, (windows,).

    The detector adapts to the noise, so it processes the whole stream once, in order.

    Raises:
        UserError: the package is not installed, or it does not support the sample rate.
    """
    try:
        import webrtcvad  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UserError("--webrtc needs the package webrtcvad-wheels") from None
    rate = spec.sample_rate
    if rate not in RATES:
        raise UserError(f"WebRTC's detector takes 8, 16, 32 or 48 kHz, not {rate} Hz")
    detector = webrtcvad.Vad(mode)
    frame = round(FRAME_S * rate)
    pcm = np.round(np.clip(samples, -1.0, 32767 / 32768) * 32768).astype("<i2")
    frames = pcm[: len(pcm) // frame * frame].reshape(-1, frame)
    voiced = np.array([detector.is_speech(f.tobytes(), rate) for f in frames], np.float32)
    shares = []
    for k, window in windows_of(samples, WindowGrid(spec.window, spec.hop)):
        first = k * spec.hop // frame
        inside = voiced[first : max(first + 1, (k * spec.hop + len(window)) // frame)]
        shares.append(float(inside.mean()) if len(inside) else 0.0)
    return np.array(shares, np.float32)


def replace_speech_output(
    outputs: NDArray[np.float32], share: NDArray[np.float32], kind: list[str]
) -> NDArray[np.float32]:
    """A copy of raw outputs whose last column is the share of voiced frames.

    Args:
        outputs: (speech windows, outputs).
        share: of all windows, (windows,).
        kind: `speech` or `silence` per window.
    """
    changed = outputs.copy()
    changed[:, -1] = share[[k == "speech" for k in kind]]
    return changed
