"""Make the bundle `waveform` in this folder: the network of examples/pytorch_model.py as ONNX.

    python tests/data/models/make_waveform.py

Its weights are seeded noise; it tests ONNX and raw samples. It needs torch, onnxscript and the
extra `onnx`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from speech_emotion.common.bundle.spec import load_spec  # noqa: E402
from speech_emotion.train.bundle.convert import bundle_model  # noqa: E402

LABELS = ("angry", "happy", "neutral", "sad")


def main() -> None:
    """Export, convert, write."""
    spec = load_spec(ROOT / "examples" / "pytorch_model.toml")
    # A tone with pauses, on a coarse grid so that it compresses well.
    t = np.arange(spec.window)
    tone = np.round(8 * np.sin(2 * np.pi * t / 40)) / 16
    golden = (tone * (t // 1600 % 2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        example = ROOT / "examples" / "pytorch_model.py"
        subprocess.run([sys.executable, str(example), str(model)], check=True)
        made = bundle_model([model], spec, LABELS, HERE / "waveform", golden)
    print(made.id, (HERE / "waveform" / "model.onnx").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
