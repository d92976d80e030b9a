"""Prosody of clips against Praat: `python -m bench.prosody --manifest FILE`. See docs/PROSODY.md.

The clips are drawn from each corpus of a manifest (docs/MODEL.md) with a seed, in equal numbers.
Both measure the span of each utterance that the pipeline finds.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.praat import measure
from speech_emotion import Pipeline, Utterance
from speech_emotion.common.wire.public import Prosody
from speech_emotion.features.prosody import ProsodyAnalyzer
from speech_emotion.train.data.clips import load, read_manifest

RATE = 16000
GROSS = 0.2
"""A difference of F0 from which it is another pitch, such as the octave."""


def drawn(manifest: Path, root: Path | None, count: int, seed: int) -> dict[str, list[Path]]:
    """Corpus → its clips."""
    corpora: dict[str, list[Path]] = {}
    for clip in read_manifest(manifest, root):
        corpora.setdefault(clip.corpus, []).append(clip.path)
    chosen = random.Random(seed)
    each = max(1, count // len(corpora))
    return {
        name: chosen.sample(sorted(paths), min(each, len(paths)))
        for name, paths in sorted(corpora.items())
    }


def compare(paths: list[Path], pipeline: Pipeline) -> list[tuple[Prosody, Prosody]]:
    """Ours and Praat's, for each utterance that both measure."""
    from speech_emotion.train.data.clips import Clip

    pairs = []
    for path in paths:
        samples = load(Clip(path, "", "", "", "", "bench"), RATE)
        for message in pipeline(samples, rate=RATE):
            if isinstance(message, Utterance) and message.prosody is not None:
                span = samples[message.start : message.end].astype(np.float64)
                reference = measure(span, RATE)
                if reference is not None:
                    pairs.append((message.prosody, reference))
    return pairs


def row(name: str, pairs: list[tuple[Prosody, Prosody]]) -> str:
    """A line of the table."""

    def differences(key: str, *, relative: bool = False) -> NDArray[np.float64]:
        both = [(getattr(a, key), getattr(b, key)) for a, b in pairs]
        known = np.array([(a, b) for a, b in both if a is not None and b is not None])
        off = np.abs(known[:, 0] - known[:, 1])
        found: NDArray[np.float64] = off / known[:, 1] if relative else off
        return found

    f0 = differences("f0_hz", relative=True)
    low, high = (differences(f"f0_{end}_hz", relative=True) for end in ("low", "high"))
    rate = np.array([(a.syllables_s, b.syllables_s) for a, b in pairs])
    cells = [
        name,
        str(len(pairs)),
        f"{100 * np.median(f0):.1f} %",
        f"{100 * np.mean(f0 > GROSS):.0f} %",
        f"{100 * np.median(low):.1f} %",
        f"{100 * np.median(high):.1f} %",
        f"{100 * np.median(differences('voiced')):.0f} points",
        f"{np.median(differences('level_db')):.1f} dB",
        f"{np.median(differences('syllables_s')):.2f}",
        f"{np.corrcoef(rate.T)[0, 1]:.2f}",
        f"{100 * np.mean(differences('pauses') == 0):.0f} %",
    ]
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "corpus | utterances | F0 | other octave | 5th percentile | 95th | voiced | level | "
    "syllables/s | their correlation | same pauses"
)


def cost(pipeline: Pipeline) -> float:
    """Milliseconds of the frames of one more window, median."""
    spec = pipeline._bundle.spec
    analyzer = ProsodyAnalyzer(spec)
    sound = np.random.default_rng(0).standard_normal(spec.window + 200 * spec.hop)
    samples, times = sound.astype(np.float32), []
    for k in range(200):
        window = samples[k * spec.hop : k * spec.hop + spec.window]
        began = time.perf_counter()
        analyzer.frames(window)
        times.append(time.perf_counter() - began)
    return 1000.0 * float(np.median(times[1:]))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True, metavar="FILE")
    parser.add_argument("--root", type=Path, metavar="DIR")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle", metavar="DIR")
    parsed = parser.parse_args()
    pipeline = Pipeline(parsed.bundle, prosody=True)
    print(f"| {HEAD} |")
    print("|---" * len(HEAD.split("|")) + "|")
    found = []
    for name, paths in drawn(parsed.manifest, parsed.root, parsed.clips, parsed.seed).items():
        pairs = compare(paths, pipeline)
        found += pairs
        print(row(name, pairs), flush=True)
    print(row("all", found))
    print(f"frames of one hop of {pipeline.bundle}: {cost(pipeline):.2f} ms", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
