"""Make the tiny bundles in this folder, one for each input layout.

    python tests/data/models/make.py

Their weights are seeded noise; they only test that models of every shape load and agree.
It needs the extra `train`.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from speech_emotion.common.bundle.manifest import LAYOUTS  # noqa: E402
from speech_emotion.common.bundle.spec import FeatureSpec  # noqa: E402
from speech_emotion.train.bundle.writer import write_bundle  # noqa: E402
from speech_emotion.train.model.export import to_tflite  # noqa: E402

LABELS = ("angry", "happy", "neutral", "sad")
SPEC = FeatureSpec(
    window_s=0.5,
    hop_s=0.25,
    n_fft=256,
    hop_length=800,
    n_mfcc=0,
    chroma=False,
    n_mels=6,
    mel="db",
    gate="adaptive",
)


def golden_audio() -> np.ndarray:
    """A tone with pauses, (SPEC.window,), on a coarse grid so that it compresses well."""
    t = np.arange(SPEC.window)
    tone = np.round(8 * np.sin(2 * np.pi * t / 40)) / 16
    return (tone * (t // 1600 % 2)).astype(np.float32)


def network(layout: str) -> keras.Model:
    """A minimal network for a layout; for `dims,frames` a Conv1D and an LSTM."""
    frames, dims = SPEC.n_frames, SPEC.dims
    match layout:
        case "frames,dims,1":
            inner = [layers.Conv2D(3, 3, activation="relu"), layers.GlobalAveragePooling2D()]
            shape: tuple[int, ...] = (frames, dims, 1)
        case "frames,dims":
            inner = [layers.Conv1D(4, 3, activation="relu"), layers.GlobalAveragePooling1D()]
            shape = (frames, dims)
        case "dims,frames":
            inner = [layers.Conv1D(4, 3, activation="relu"), layers.LSTM(3)]
            shape = (dims, frames)
        case "dims,frames,1":
            inner = [layers.Conv2D(3, 3, activation="relu"), layers.Flatten()]
            shape = (dims, frames, 1)
        case _:
            inner = [layers.Dense(5, activation="relu")]
            shape = (dims,)
    inputs = x = keras.Input(shape, batch_size=1)
    for layer in [*inner, layers.Dense(len(LABELS), activation="softmax")]:
        x = layer(x)
    return keras.Model(inputs, x)


def main() -> None:
    """Write one bundle per layout."""
    for layout in LAYOUTS:
        keras.utils.set_random_seed(1)
        name = layout.replace(",", "-")
        write_bundle(
            HERE / name,
            name=name,
            model=to_tflite(network(layout)),
            labels=LABELS,
            spec=SPEC,
            layout=layout,
            output="probabilities",
            stats=(
                np.full(SPEC.dims, -30.0, np.float32),
                np.full(SPEC.dims, 20.0, np.float32),
            ),
            golden_audio=golden_audio(),
            card=f"# {name}\n\nA test model with seeded random weights. It knows nothing.\n",
            licence="CC0-1.0\n",
            licence_id="CC0-1.0",
            provenance={"command": "python tests/data/models/make.py", "seed": 1},
        )
        print(name, (HERE / name / "model.tflite").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
