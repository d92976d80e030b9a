"""Makes `demo.flac` and `demo.json`: EMO-DB clips (CC0) with long pauses between them.

    python examples/make_demo.py --data DIR

`DIR` contains EMO-DB as 16 kHz files `EMODB/03a01Fa.flac`, with or without the folder `EMODB`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

try:
    import numpy as np
    import soundfile as sf
except ModuleNotFoundError as error:
    print(f"make_demo: {error.name} is missing; pip install numpy soundfile", file=sys.stderr)
    sys.exit(2)

RATE = 16000
PAUSE_S = 4.0
NOISE_DBFS = -70.0
SEED = 7
DIGITAL_SILENCE = 4
"""The pause before this clip is digital silence; the others are very faint noise."""
CLIPS = (
    "03a01Nc",
    "08a02Wc",
    "09b03Ta",
    "10b10Fc",
    "11a07Wc",
    "13b01Nc",
    "14a04Tb",
    "16b10Fb",
)
EMOTIONS = {"W": "angry", "F": "happy", "N": "neutral", "T": "sad"}
"""EMO-DB names a clip speaker (2), sentence (3), emotion (1, in German), version (1)."""
HERE = Path(__file__).parent


def find_clip(data: Path, name: str) -> Path:
    """The file of one clip.

    Raises:
        SystemExit: it is missing.
    """
    for folder in (data, data / "EMODB"):
        for suffix in (".flac", ".wav"):
            if (path := folder / (name + suffix)).is_file():
                return path
    raise SystemExit(f"{data}: clip {name}.flac or {name}.wav is missing; is this EMO-DB?")


def compose(data: Path) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Samples (n,) in [-1, 1] at `RATE`, and one label row per clip."""
    rng = np.random.default_rng(SEED)
    parts: list[np.ndarray] = []
    labels: list[dict[str, object]] = []
    position = 0
    for number, name in enumerate(CLIPS):
        samples, rate = sf.read(find_clip(data, name), dtype="float64")
        if rate != RATE or samples.ndim != 1:
            raise SystemExit(f"{name}: must be {RATE} Hz mono, is {rate} Hz")
        pause = rng.standard_normal(round(PAUSE_S * RATE)) * 10 ** (NOISE_DBFS / 20)
        if number == DIGITAL_SILENCE:
            pause[:] = 0.0
        parts += [pause, samples]
        start = position + len(pause)
        position = start + len(samples)
        labels.append(
            {
                "start": start,
                "end": position,
                "file": name,
                "speaker": name[:2],
                "emotion": EMOTIONS[name[5]],
            }
        )
    parts.append(rng.standard_normal(round(PAUSE_S * RATE)) * 10 ** (NOISE_DBFS / 20))
    return np.concatenate(parts), labels


def main() -> None:
    """Write the demo to the folder of this script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="EMO-DB, 16 kHz")
    samples, labels = compose(parser.parse_args().data)
    sf.write(HERE / "demo.flac", samples, RATE, subtype="PCM_16")
    about = {
        "audio": "demo.flac",
        "rate": RATE,
        "samples": len(samples),
        "source": "EMO-DB (Burkhardt et al., 2005), CC0-1.0",
        "note": "The shipped bundles were trained on all speakers of EMO-DB, these too: the demo "
        "shows the pipeline at work and says nothing about its accuracy on new voices.",
        "clips": labels,
    }
    (HERE / "demo.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"demo.flac: {len(samples) / RATE:.1f} s, {len(labels)} clips")


if __name__ == "__main__":
    main()
