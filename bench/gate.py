"""Measure the voice gate on real speech in noise: `python -m bench.gate MANIFEST...`.

A manifest is a CSV file with the columns `path` (relative to the manifest) and `corpus`. Its
clips are joined with pauses between them and mixed with faint or louder noise; the gate takes
the windows of the whole scene in order. A window counts as speech if at least half of it lies
between the first and the last loud frame of a clip, as a pause if it overlaps no clip, and as an
edge if it overlaps a clip only before or after its loud frames: there the noise of the recording
itself begins and ends, amplified with the speech.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec, load_spec
from speech_emotion.common.errors import EXIT_USER, UserError
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.features.gate import make_gate

Samples = NDArray[np.float32]

PAUSE_S = 1.5
LEVELS_DBFS = (-55.0, -40.0, -30.0, -20.0)
FAINT_DBFS = -75.0
SNRS_DB = (20.0, 10.0)
NOISE_LEVELS_DBFS = (-70.0, -50.0, -30.0, -10.0)
NOISE_S = 600.0


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip; its active part is `samples[start:end]`."""

    corpus: str
    samples: Samples
    start: int
    end: int

    @property
    def active(self) -> Samples:
        return self.samples[self.start : self.end]


def load_clip(row: tuple[Path, str], rate: int) -> Clip:
    path, corpus = row
    samples, file_rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(samples.mean(axis=1), file_rate, rate)
    frame = rate // 50
    levels = np.array([rms_dbfs(f) for f in mono[: len(mono) // frame * frame].reshape(-1, frame)])
    loud = np.flatnonzero(levels >= np.percentile(levels, 95) - 25.0)
    return Clip(corpus, mono, int(loud[0]) * frame, int(loud[-1] + 1) * frame)


def load_clips(manifests: list[Path], count: int, rate: int, seed: int) -> list[Clip]:
    """About `count` random clips, the same number of each corpus, in random order."""
    rows = []
    for manifest in manifests:
        try:
            with manifest.open(newline="") as file:
                rows += [(manifest.parent / r["path"], r["corpus"]) for r in csv.DictReader(file)]
        except (OSError, KeyError) as error:
            raise UserError(f"{manifest}: no manifest with path and corpus ({error})") from None
    rng = np.random.default_rng(seed)
    corpora = sorted({corpus for _, corpus in rows})
    chosen: list[tuple[Path, str]] = []
    for name in corpora:
        candidates = [row for row in rows if row[1] == name]
        size = min(len(candidates), count // len(corpora))
        chosen += [candidates[i] for i in rng.choice(len(candidates), size, replace=False)]
    return [load_clip(chosen[i], rate) for i in rng.permutation(len(chosen))]


def colored(length: int, exponent: float, rate: int, rng: np.random.Generator) -> Samples:
    """Gaussian noise, power falling with frequency ** exponent above 20 Hz, RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hertz = np.maximum(np.fft.rfftfreq(length, 1 / rate), 20.0)
    return unit(np.fft.irfft(spectrum * hertz ** (-exponent / 2), length))


def unit(samples: NDArray[np.float64]) -> Samples:
    scaled: NDArray[np.float64] = samples / np.sqrt(np.mean(np.square(samples)))
    return scaled.astype(np.float32)


def harmonics(length: int, hertz: float, count: int, rate: int) -> Samples:
    t = np.arange(length) / rate
    return unit(np.sum([np.sin(2 * np.pi * hertz * k * t + k * k) / k for k in range(1, count)], 0))


def fan(length: int, rate: int, rng: np.random.Generator) -> Samples:
    """Pinkish noise that beats at 7 Hz and drifts by 3 dB in 10 s, with the tones of blades."""
    t = np.arange(length) / rate
    beat = 1 + 0.2 * np.sin(2 * np.pi * 7 * t) + 0.15 * np.sin(2 * np.pi * 0.1 * t)
    return unit(beat * (colored(length, 1.3, rate, rng) + 0.5 * harmonics(length, 92.0, 6, rate)))


def gain(level: float) -> np.float32:
    return np.float32(10.0 ** (level / 20.0))


def opened(spec: FeatureSpec, samples: Samples) -> NDArray[np.bool_]:
    """The gate's verdict on every window of `samples`, from a fresh gate."""
    gate = make_gate(spec)
    starts = range(0, len(samples) - spec.window + 1, spec.hop)
    return np.array([gate.step(samples[s : s + spec.window]) for s in starts], dtype=bool)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Clips at one level with pauses between them, without noise yet.

    Attributes:
        samples: the active parts of all clips have the same RMS.
        kinds: masks over the windows: speech, pause, edge.
        corpus: per window, the corpus of the clip at or before the window's middle.
    """

    samples: Samples
    kinds: dict[str, NDArray[np.bool_]]
    corpus: NDArray[np.str_]

    @classmethod
    def of(cls, clips: list[Clip], level: float, spec: FeatureSpec) -> Scene:
        pause = round(PAUSE_S * spec.sample_rate)
        lengths = [pause + len(clip.samples) for clip in clips]
        samples = np.zeros(sum(lengths) + pause, np.float32)
        inside = np.zeros((2, len(samples) + 1), np.int32)
        begins = np.cumsum([pause, *lengths[:-1]])
        for begin, clip in zip(begins, clips, strict=True):
            end = begin + len(clip.samples)
            samples[begin:end] = clip.samples * gain(level - rms_dbfs(clip.active))
            inside[0, begin + 1 : end + 1] = 1
            inside[1, begin + clip.start + 1 : begin + clip.end + 1] = 1
        counts = np.cumsum(inside, axis=1)
        starts = np.arange(0, len(samples) - spec.window + 1, spec.hop)
        clip_samples, active_samples = counts[:, starts + spec.window] - counts[:, starts]
        kinds = {
            "speech": active_samples * 2 >= spec.window,
            "pause": clip_samples == 0,
            "edge": (clip_samples > 0) & (active_samples == 0),
        }
        nearest = np.searchsorted(begins, starts + spec.window // 2, side="right") - 1
        corpus = np.array([clip.corpus for clip in clips])[np.maximum(nearest, 0)]
        return cls(samples, kinds, corpus)


def measure_speech(clips: list[Clip], spec: FeatureSpec, rng: np.random.Generator) -> None:
    print("Windows open:")
    print("| speech dBFS | noise | SNR dB | clips | speech | pause | edge |")
    print("|---|---|---|---|---|---|---|")
    for level in LEVELS_DBFS:
        scene = Scene.of(clips, level, spec)
        exponents = {"white": 0.0, "pink": 1.0, "brown": 2.0}
        noises = {
            name: colored(len(scene.samples), exponent, spec.sample_rate, rng)
            for name, exponent in exponents.items()
        }
        for name, snr in [("pink", None), *((name, snr) for snr in SNRS_DB for name in noises)]:
            noise_level = FAINT_DBFS if snr is None else level - snr
            mixed = np.clip(scene.samples + gain(noise_level) * noises[name], -1.0, 1.0)
            verdict = opened(spec, mixed)
            groups = {"all": np.ones(len(verdict), bool)}
            if snr is None:
                groups |= {name: scene.corpus == name for name in sorted(set(scene.corpus))}
            for group, members in groups.items():
                shares = [share(verdict[members & kind]) for kind in scene.kinds.values()]
                case = f"{name} | {'faint' if snr is None else f'{snr:.0f}'}"
                print(f"| {level:.0f} | {case} | {group} | {' | '.join(shares)} |")


def share(verdict: NDArray[np.bool_]) -> str:
    return f"{100 * verdict.mean():.1f} %" if len(verdict) else "–"


def measure_start(clips: list[Clip], spec: FeatureSpec, rng: np.random.Generator) -> None:
    """Speech from the first sample on, new gate: share of first windows that are open."""
    for snr in (40.0, 10.0):
        firsts = []
        for clip in clips:
            samples = clip.active[: spec.window] * gain(-30.0 - rms_dbfs(clip.active))
            if len(samples) == spec.window:
                noise = colored(spec.window, 1.0, spec.sample_rate, rng)
                firsts.append(opened(spec, samples + gain(-30.0 - snr) * noise)[0])
        print(f"first window open, SNR {snr:.0f} dB: {100 * np.mean(firsts):.1f} % ({len(firsts)})")


def measure_long(clips: list[Clip], spec: FeatureSpec, rng: np.random.Generator) -> None:
    """All clips of a corpus without any pause between them."""
    for corpus in sorted({c.corpus for c in clips}):
        speech = np.concatenate(
            [c.active * gain(-30.0 - rms_dbfs(c.active)) for c in clips if c.corpus == corpus]
        )
        for snr in (40.0, 10.0):
            noise = colored(len(speech), 1.0, spec.sample_rate, rng)
            verdict = opened(spec, speech + gain(-30.0 - snr) * noise)
            print(
                f"{corpus} without pauses, {len(speech) / spec.sample_rate:.0f} s, SNR {snr:.0f} "
                f"dB: {100 * verdict.mean():.1f} % open"
            )


def measure_noise(spec: FeatureSpec, rng: np.random.Generator) -> None:
    rate, length = spec.sample_rate, round(NOISE_S * spec.sample_rate)
    kinds: dict[str, Callable[[], Samples]] = {
        "white": lambda: colored(length, 0.0, rate, rng),
        "pink": lambda: colored(length, 1.0, rate, rng),
        "brown": lambda: colored(length, 2.0, rate, rng),
        "fan": lambda: fan(length, rate, rng),
        "hum 50 Hz": lambda: harmonics(length, 50.0, 20, rate),
        "tone 440 Hz": lambda: harmonics(length, 440.0, 2, rate),
    }
    print(
        f"| {NOISE_S:.0f} s of | " + " | ".join(f"{x:.0f} dBFS" for x in NOISE_LEVELS_DBFS) + " |"
    )
    print("|---" * (1 + len(NOISE_LEVELS_DBFS)) + "|")
    for name, make in kinds.items():
        noise = make()
        cells = []
        for level in NOISE_LEVELS_DBFS:
            verdict = opened(spec, np.clip(noise * gain(level), -1.0, 1.0))
            cells.append(f"{verdict.sum()} of {len(verdict)}")
        print(f"| {name} | {' | '.join(cells)} |")
    steps = []
    for _ in range(50):
        noise = colored(20 * rate, 1.0, rate, rng)
        noise *= np.where(np.arange(len(noise)) < 10 * rate, gain(-60.0), gain(-30.0))
        ends = np.flatnonzero(opened(spec, noise)) * spec.hop + spec.window
        steps.append((ends[-1] if len(ends) else 10 * rate) / rate - 10.0)
    print(f"pink noise from -60 to -30 dBFS: closed again after {max(steps):.1f} s at most")


def measure_time(spec: FeatureSpec, rng: np.random.Generator) -> None:
    gate = make_gate(spec)
    window = colored(spec.window, 1.0, spec.sample_rate, rng) * gain(-40.0)
    times = []
    for _ in range(2000):
        began = time.perf_counter()
        gate.step(window)
        times.append(time.perf_counter() - began)
    print(f"one window: median {1e6 * np.median(times):.0f} µs")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--spec", type=Path, help="TOML file with [features]; default: adaptive")
    args = parser.parse_args()
    try:
        spec = load_spec(args.spec) if args.spec else FeatureSpec(gate="adaptive")
        clips = load_clips(args.manifests, args.clips, spec.sample_rate, args.seed)
    except UserError as error:
        print(f"bench.gate: {error}", file=sys.stderr)
        return EXIT_USER
    rng = np.random.default_rng(args.seed)
    measure_speech(clips, spec, rng)
    measure_start(clips, spec, rng)
    measure_long(clips, spec, rng)
    measure_noise(spec, rng)
    measure_time(spec, rng)
    return 0


if __name__ == "__main__":
    sys.exit(main())
