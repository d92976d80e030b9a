"""Make the tiny bundles in this folder: one for each input layout, and two with a baseline.

    python tests/data/models/make.py [NAME …]

Their weights are seeded noise; they only test that models of every shape load and agree.
It needs the extra `train`.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

from speech_emotion.common.bundle.baseline import Baseline  # noqa: E402
from speech_emotion.common.bundle.manifest import LAYOUTS  # noqa: E402
from speech_emotion.common.bundle.parameters import Decision  # noqa: E402
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


def golden_audio(spec: FeatureSpec = SPEC) -> np.ndarray:
    """A tone with pauses, (spec.window,), on a coarse grid so that it compresses well."""
    t = np.arange(spec.window)
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


LIVE = dataclasses.replace(SPEC, window_s=1.0, hop_s=0.5)
"""The grid of models/small, so that pipelines of the tests can change between the two."""
BASELINES = {
    "relative": Baseline(
        prior=(0.0, 0.5, -0.5, 0.25),
        bias=(0.0, 0.0, 0.5, 0.0),
        prior_s=2.0,
        evidence_s=3.0,
        variety=0.05,
        mixed=0.3,
        one_sided=0.6,
    ),
    "relative-2": Baseline(
        prior=(0.0,) * 4,
        bias=(0.0,) * 4,
        evidence_s=1.0,
        variety=0.0,
        mixed=0.3,
        one_sided=0.6,
        temperature=2.0,
    ),
}
"""Bundles with a baseline. It gains trust within seconds, so that short recordings show it."""


def relative_network() -> keras.Model:
    """Labels, speech and relative scores of the mean over time."""
    inputs = keras.Input((LIVE.dims,), batch_size=1)
    hidden = layers.Dense(5, activation="tanh")(inputs)
    outputs = [
        layers.Dense(len(LABELS), activation="softmax")(hidden),
        layers.Dense(1, activation="sigmoid", bias_initializer=keras.initializers.Constant(1.0))(
            hidden
        ),
        layers.Dense(len(LABELS))(hidden),
    ]
    return keras.Model(inputs, layers.Concatenate()(outputs))


def write(name: str) -> None:
    """Write one bundle: a layout with `-` for `,`, or one of `BASELINES`."""
    baseline = BASELINES.get(name)
    layout = "dims" if baseline else name.replace("-", ",")
    spec = LIVE if baseline else SPEC
    keras.utils.set_random_seed(2 if name == "relative-2" else 1)
    chosen = relative_network() if baseline else network(layout)
    write_bundle(
        HERE / name,
        name=name,
        model=to_tflite(chosen),
        labels=LABELS,
        spec=spec,
        layout=layout,
        output="probabilities",
        speech_output=baseline is not None,
        baseline=baseline,
        decision=Decision(min_speech=0.5, min_utterance_speech=0.5) if baseline else None,
        stats=(
            np.full(spec.dims, -30.0, np.float32),
            np.full(spec.dims, 20.0, np.float32),
        ),
        golden_audio=golden_audio(spec),
        card=f"# {name}\n\nA test model with seeded random weights. It knows nothing.\n",
        licence="CC0-1.0\n",
        licence_id="CC0-1.0",
        provenance={"command": "python tests/data/models/make.py", "seed": 1},
    )
    print(name, (HERE / name / "model.tflite").stat().st_size, "bytes")


def main(names: list[str]) -> None:
    """Write the named bundles, all by default."""
    layouts = [layout.replace(",", "-") for layout in LAYOUTS]
    for name in names or [*layouts, *BASELINES]:
        write(name)


if __name__ == "__main__":
    main(sys.argv[1:])
