"""Blocks of samples to messages in one process: what capture, features and infer do together.

The same pure functions as in the stages, in the same order, so the messages have the bits that a
live pipeline publishes. Memory is constant: one window and one block.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from speech_emotion.capture.samples import Samples, quantize, to_mono
from speech_emotion.common.bundle.grid import missing_samples
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.features.extractor import FeatureExtractor
from speech_emotion.features.messages import WindowBuilder
from speech_emotion.infer.baseline import BaselineState
from speech_emotion.infer.classify import classify
from speech_emotion.infer.decision import State, finish
from speech_emotion.infer.model import Model
from speech_emotion.infer.offline.sound import Sound

STREAM = "main"
RUN = "offline"

Message: TypeAlias = public.Result | public.Utterance


@dataclasses.dataclass(frozen=True)
class BaselineUse:
    """How a recording is compared with itself.

    Attributes:
        mode: `off`, `stream`, or None: `stream` if the bundle can.
        forget_at: windows before which the baseline is forgotten.
    """

    mode: str | None = None
    forget_at: frozenset[int] = frozenset()

    def empty(self, bundle: Bundle) -> BaselineState | None:
        """The baseline before any speech; None where there is none."""
        if self.mode == "off" or bundle.baseline is None:
            return None
        return BaselineState.empty(len(bundle.labels))


DEFAULT_USE = BaselineUse()
NO_SAMPLES: Samples = np.zeros(0, np.float32)


class Analyzer:
    """All messages of one stream of samples, in the order of a live subscriber.

    A gap gives one message per window that it makes a gap, for any length. The messages do not
    depend on the size of the blocks.

    Args:
        extractor: a new one of the bundle, for this stream alone.
        source_rate: sample rate of the blocks in Hz.
        channel: channel to take, from 0; None mixes all.
        gaps: spans [a, b) of missing samples at the bundle's rate, in order and disjoint; the
            blocks have zeros there.
        stream, run: names that the messages carry.
        use: how it is compared with itself.
        observe: takes all samples at the bundle's rate, as they are analysed.

    Attributes:
        position: samples taken so far, at the bundle's rate.
        windows: windows analysed so far.
    """

    def __init__(
        self,
        bundle: Bundle,
        extractor: FeatureExtractor,
        model: Model,
        source_rate: int,
        *,
        channel: int | None = None,
        gaps: Iterable[list[int]] = (),
        stream: str = STREAM,
        run: str = RUN,
        use: BaselineUse = DEFAULT_USE,
        observe: Callable[[Samples], None] | None = None,
    ) -> None:
        self.position = 0
        self.windows = 0
        self._bundle = bundle
        self._extractor = extractor
        self._model = model
        self._channel = channel
        self._gaps = deque(gaps)
        self._grid = bundle.spec.grid
        self._builder = WindowBuilder(stream, run, run, self._grid)
        self._use = use
        self._state = State(baseline=use.empty(bundle))
        self._observe = observe
        self._held = NO_SAMPLES  # samples from the start of the next window on
        self._resampler = None
        if source_rate != bundle.spec.sample_rate:
            import soxr

            self._resampler = soxr.ResampleStream(
                source_rate, bundle.spec.sample_rate, 1, dtype="float32"
            )

    def feed(self, block: Samples) -> list[Message]:
        """The messages that the next block, float32 (frames, channels), completes."""
        samples = to_mono(block, self._channel)
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples))
        return self._take(quantize(samples))

    def finish(self) -> list[Message]:
        """The last messages. Samples at the end that do not fill a window give none."""
        messages: list[Message] = []
        if self._resampler is not None:
            messages += self._take(quantize(self._resampler.resample_chunk(NO_SAMPLES, last=True)))
        if self.position and not self.windows:
            # A stream shorter than a window gives one, filled up with digital silence.
            missing = self._grid.window - len(self._held)
            messages += self._window(np.pad(self._held, (0, missing)))
        end = self._builder.end(self.windows, self.position)
        messages += finish(self._state, end, self._bundle)
        self._state = State()
        return messages

    def forget_baseline(self) -> None:
        """Forget what the stream usually sounds like, before the next window."""
        baseline = self._use.empty(self._bundle)
        if baseline is not None:
            self._state = dataclasses.replace(self._state, baseline=baseline, forgotten=True)

    def _take(self, samples: Samples) -> list[Message]:
        self.position += len(samples)
        if self._observe is not None:
            self._observe(samples)
        held = np.concatenate([self._held, samples]) if len(self._held) else samples
        messages: list[Message] = []
        start, (window, hop) = 0, (self._grid.window, self._grid.hop)
        while start + window <= len(held):
            messages += self._window(held[start : start + window])
            start += hop
        self._held = held[start:].copy()  # a view would keep the whole block
        return messages

    def _window(self, samples: Samples) -> list[Message]:
        k = self.windows
        self.windows += 1
        if k in self._use.forget_at:
            self.forget_baseline()
        missing = self._missing(self._grid.start(k), self._grid.end(k))
        analysis = self._extractor.analyze(samples, missing=missing)
        window = self._builder.analysed(k, analysis, lost=missing, packed=False)
        result, utterances, self._state = classify(
            window, analysis.features, self._state, self._model, self._bundle
        )
        return [result, *utterances]

    def _missing(self, start: int, end: int) -> int:
        while self._gaps and self._gaps[0][1] <= start:
            self._gaps.popleft()
        near: list[list[int]] = []
        for gap in self._gaps:
            if gap[0] >= end:
                break
            near.append(gap)
        return missing_samples(near, start, end)


def analyse(sound: Sound, analyzer: Analyzer) -> Iterator[list[Message]]:
    """The messages of a source, block by block; closes the source.

    Raises:
        UserError: after the messages of the samples before it: the file is damaged; it holds no
            samples.
    """
    damage: UserError | None = None
    try:
        for block in sound:
            yield analyzer.feed(block)
    except UserError as error:
        damage = error
    finally:
        sound.close()
    yield analyzer.finish()
    if damage is not None:
        raise damage
    if not analyzer.position:
        raise UserError(f"{sound.name}: holds no samples")
