"""A bundle with the original engine's spec, for the rival and for the pipeline.

    python -m bench.original        creates bench/original.tflite again (needs the extra `train`)

The network has the architecture of the shipped one at the original's size, and seeded random
weights: its run time is realistic, its results mean nothing.
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
    """Write the bundle to a folder."""
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
    """Create bench/original.tflite again."""
    import keras

    from speech_emotion.train.model.export import export_model, to_tflite
    from speech_emotion.train.model.network import Network, build

    keras.utils.set_random_seed(0)
    model = build(Network(), SPEC.n_frames, SPEC.dims, {"label": len(LABELS)})
    MODEL.write_bytes(to_tflite(export_model(model), quantized=True))
    print(f"{MODEL}: {MODEL.stat().st_size} bytes")


if __name__ == "__main__":
    main()
