"""A bundle of the original's spec, so that the rival and the pipeline can run it.

    python -m bench.original        makes bench/original.tflite again (needs the extra `train`)

The network is the shipped one's kind at the original's size, with seeded random weights: it
takes the time that it takes, and knows nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec

MODEL = Path(__file__).with_suffix(".tflite")
LABELS = ("angry", "happy", "neutral", "sad")
SPEC = FeatureSpec()
GATED = dataclasses.replace(SPEC, gate="adaptive")


def original_bundle(path: Path) -> Bundle:
    """Write it to a folder."""
    from speech_emotion.train.bundle.writer import write_bundle

    rng = np.random.default_rng(0)
    return write_bundle(
        path,
        name="original",
        model=MODEL.read_bytes(),
        labels=LABELS,
        spec=GATED,
        layout="frames,dims,1",
        output="probabilities",
        stats=(np.zeros(SPEC.dims, np.float32), np.full(SPEC.dims, 100.0, np.float32)),
        golden_audio=(0.1 * rng.standard_normal(SPEC.window)).astype(np.float32),
        card="# original\n\nRandom weights, for measuring.\n",
        licence="CC0-1.0\n",
        licence_id="CC0-1.0",
    )


def main() -> None:
    """Make the model again."""
    import keras

    from speech_emotion.train.model.export import export_model, to_tflite
    from speech_emotion.train.model.network import Network, build

    keras.utils.set_random_seed(0)
    model = build(Network(), SPEC.n_frames, SPEC.dims, {"label": len(LABELS)})
    MODEL.write_bytes(to_tflite(export_model(model), quantized=True))
    print(f"{MODEL}: {MODEL.stat().st_size} bytes")


if __name__ == "__main__":
    main()
