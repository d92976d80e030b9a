"""Outputs of a bundle for the windows of clips, also as another microphone would record them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.features.extractor import load_statistics
from speech_emotion.infer.decision import cold_scores, distance_of, relative_of, speech_of
from speech_emotion.infer.model import Model
from speech_emotion.train.data.augment import quantize, telephone
from speech_emotion.train.data.clips import Clip, Samples, load, mapping, select
from speech_emotion.train.data.stream_features import extract_clips
from speech_emotion.train.evaluation.evaluate import model_outputs

log = logging.getLogger("train")

TILT_DB = 6.0
"""Slope of a microphone's tilt in dB per octave from 1 kHz on, both ways, at most `TILT_MOST`."""
TILT_MOST = 15.0
BATCH = 200
"""Clips whose features are in memory at once."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """How many clips are used; None: all.

    Attributes:
        speakers: of each corpus.
        clips: of each speaker and label.
    """

    speakers: int | None = None
    clips: int | None = None

    def of(self, clips: Sequence[Clip], seed: int = 0) -> list[Clip]:
        """A seeded part of the clips, in their order."""
        chance = np.random.default_rng(seed)
        order = [clips[k] for k in chance.permutation(len(clips))]
        speakers: dict[str, dict[str, None]] = {}
        count: dict[tuple[str, str, str], int] = {}
        kept = set()
        for clip in order:
            known = speakers.setdefault(clip.corpus, {})
            if clip.speaker not in known and len(known) >= (self.speakers or len(order)):
                continue
            known[clip.speaker] = None
            key = (clip.corpus, clip.speaker, clip.emotion)
            count[key] = count.get(key, 0) + 1
            if self.clips is None or count[key] <= self.clips:
                kept.add(clip.path)
        return [clip for clip in clips if clip.path in kept]


def microphone(samples: Samples, rate: int, number: int) -> Samples:
    """The sound through another microphone.

    Args:
        number: 0: a telephone; 1: one with too little bass; 2: one with too little treble.
    """
    x = samples.astype(np.float64)
    if number == 0:
        return quantize(telephone(x, rate))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(x), 1.0 / rate), 20.0) / 1000.0)
    slope = TILT_DB if number == 1 else -TILT_DB
    gain = 10.0 ** (np.clip(slope * octaves, -TILT_MOST, TILT_MOST) / 20.0)
    tilted = np.fft.irfft(np.fft.rfft(x) * gain, len(x))
    return quantize(tilted * np.sqrt(np.mean(x**2) / max(float(np.mean(tilted**2)), 1e-12)))


def write_outputs(
    path: Path,
    bundle_path: Path,
    clips: Sequence[Clip],
    selection: Selection,
    *,
    microphones: bool,
    runtime: str = "auto",
) -> int:
    """Write the npz file that `train streams` reads; returns the number of windows.

    Args:
        microphones: each clip a second time, as another microphone of its speaker records it.

    Raises:
        UserError: the bundle has no baseline, no clip has a label of it, or a file is not readable.
    """
    bundle = load_bundle(bundle_path)
    if bundle.baseline is None:
        raise UserError(f"{bundle_path}: has no baseline; its model gives no relative scores")
    kept, _ = select(clips, mapping(bundle.labels))
    if not kept:
        raise UserError(f"no clip has a label of {bundle.name}: {', '.join(bundle.labels)}")
    kept = selection.of(kept)
    people = {name: k for k, name in enumerate(sorted({(c.corpus, c.speaker) for c in kept}))}
    model = Model(bundle, runtime)
    parts: list[NDArray[np.float32]] = []
    owner: list[NDArray[np.int64]] = []
    rendering: list[NDArray[np.int64]] = []
    for other in range(1 + microphones):
        for first in range(0, len(kept), BATCH):
            batch = kept[first : first + BATCH]
            sounds = [load(clip, bundle.spec.sample_rate) for clip in batch]
            if other:
                numbers = [people[clip.corpus, clip.speaker] % 3 for clip in batch]
                sounds = [
                    microphone(sound, bundle.spec.sample_rate, number)
                    for sound, number in zip(sounds, numbers, strict=True)
                ]
            outputs = _outputs(bundle, model, sounds)
            sizes = [len(one) for one in outputs]
            parts += outputs
            owner.append(np.repeat(np.arange(first, first + len(batch)), sizes))
            rendering.append(np.full(sum(sizes), other))
            log.info("outputs: %d of %d clips", first + len(batch), len(kept))
    _write(path, bundle, kept, np.concatenate(parts), np.concatenate(owner), rendering)
    return sum(map(len, parts))


def _outputs(bundle: Bundle, model: Model, sounds: list[Samples]) -> list[NDArray[np.float32]]:
    statistics = load_statistics(bundle)
    features = extract_clips(sounds, bundle.spec, workers=1)
    return [model_outputs(model, bundle, statistics, one) for one in features]


def _write(
    path: Path,
    bundle: Bundle,
    clips: list[Clip],
    outputs: NDArray[np.float32],
    owner: NDArray[np.int64],
    rendering: list[NDArray[np.int64]],
) -> None:
    assert bundle.baseline is not None
    scores = np.array([cold_scores(one, bundle) for one in outputs])
    cold = np.exp(scores - scores.max(axis=1, keepdims=True))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            labels=np.array(bundle.labels),
            corpus=np.array([clip.corpus for clip in clips])[owner],
            speaker=np.array([clip.speaker for clip in clips])[owner],
            clip=owner.astype(np.int32),
            rendering=np.concatenate(rendering).astype(np.int8),
            label=np.array([bundle.labels.index(clip.emotion) for clip in clips], np.int8)[owner],
            cold=(cold / cold.sum(axis=1, keepdims=True)).astype(np.float32),
            distance=np.array([distance_of(one, bundle) for one in outputs], np.float32),
            speech=np.array([speech_of(one, bundle) for one in outputs], np.float32),
            relative=np.array([relative_of(one, bundle) for one in outputs], np.float32),
            prior=np.array(bundle.baseline.prior, np.float32),
            bias=np.array(bundle.baseline.bias, np.float32),
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
