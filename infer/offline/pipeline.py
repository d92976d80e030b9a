"""The library: `Pipeline` for recordings, `Stream` for programs that have their own sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.parameters import OPERATING_POINTS
from speech_emotion.common.config.checks import check_baseline
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.model import Model
from speech_emotion.infer.offline.analyzer import STREAM, Analyzer, BaselineUse, Message, analyse
from speech_emotion.infer.offline.sound import (
    BLOCK_FRAMES,
    Sound,
    Source,
    as_block,
    check_channel,
    check_rate,
    open_sound,
)

if TYPE_CHECKING:
    import pandas as pd


class Pipeline:
    """Recordings to emotions in this process: the messages that the live pipeline publishes.

    Use it from one thread; several streams of one pipeline may be used by turns.

    >>> from speech_emotion import Pipeline
    >>> pipeline = Pipeline("models/small")
    >>> pipeline.labels
    ('angry', 'happy', 'neutral', 'sad')
    >>> for message in pipeline("examples/demo.flac"):
    ...     if message.topic == "utterance":
    ...         print(f"{message.start / message.rate:.1f} s: {message.emotion}")
    ...         break
    3.5 s: neutral

    Args:
        bundle: folder of a model bundle; None: the one that comes with the package.
        baseline: `off`, or `stream`: compare with the stream's usual sound; None: `stream` if
            the bundle can.
        sensitivity: operating point of the bundle: `low`, `medium` or `high`.
        runtime: `auto`, `litert`, `tflite` or `onnx`.
        prosody: measure the prosody of utterances.

    Attributes:
        bundle: id of the bundle, as messages carry it.
        labels: the values of `emotion`, beside `uncertain`.
        rate: sample rate in Hz of `start` and `end` in messages.

    Raises:
        UserError: the bundle is missing or damaged, or no runtime for its model is installed.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        baseline: str | None = None,
        sensitivity: str = "medium",
        runtime: str = "auto",
        prosody: bool = False,
    ) -> None:
        if sensitivity not in OPERATING_POINTS:
            allowed = ", ".join(OPERATING_POINTS)
            raise UserError(f"sensitivity {sensitivity!r} is not known; allowed: {allowed}")
        self._prosody = prosody
        self._use = BaselineUse(None if baseline is None else check_baseline(baseline))
        loaded = load_bundle(DEFAULT_BUNDLE if bundle is None else Path(bundle))
        self._bundle = loaded.at(sensitivity)
        self._extractors = load_extractors(self._bundle, prosody=prosody)
        self._model = Model(self._bundle, runtime)
        self.bundle = self._bundle.id
        self.labels = self._bundle.labels
        self.rate = self._bundle.spec.sample_rate
        # The program that imports this may use more threads for its own products of matrices.
        # How a product is split among threads decides its last bits.
        self._threads = threadpoolctl.ThreadpoolController()

    def __call__(
        self, source: Source, *, rate: int | None = None, channel: int | None = None
    ) -> Iterator[Message]:
        """The messages of a recording, each as soon as it is known, in constant memory.

        >>> import numpy as np
        >>> pipeline = Pipeline("models/small")
        >>> quiet = np.zeros((96_000, 2), np.int16)
        >>> [message.state for message in pipeline(quiet, rate=48_000)]
        ['silence', 'silence', 'silence']

        Args:
            source: path of a sound file, or of a folder that `--record` has written; a file
                opened in binary mode; or samples, (frames,) or (frames, channels), of float32,
                float64, int16 or int32.
            rate: sample rate in Hz; needed for samples, and only there.
            channel: channel to take, from 0; None mixes all.

        Raises:
            UserError: at once: the source cannot be read, or holds no samples; after the
                messages before it: the file is damaged from some sample on.
        """
        if isinstance(source, np.ndarray) or rate is not None:
            if rate is None:
                raise UserError("samples need their sample rate: pipeline(samples, rate=16000)")
            if not isinstance(source, np.ndarray):
                raise UserError("rate= belongs to samples; a file has its own sample rate")
            return self._of_samples(source, rate, channel)
        return self._of_sound(open_sound(source, self.rate, channel), channel)

    def to_frame(
        self,
        source: Source | list[str] | list[Path],
        *,
        rate: int | None = None,
        channel: int | None = None,
        utterances: bool = False,
    ) -> pd.DataFrame:
        """The results as a pandas table with the index `file, start, end` of audformat.

        Needs the extra `archive`. Columns: `state`, `emotion`, `confidence`, `reason`, `rms_db`,
        and the smoothed probability of each label; of utterances `windows` instead of `state`
        and `rms_db`, and their prosody where the pipeline measures it; a column for each
        dimension of the bundle.

        >>> table = Pipeline("models/small").to_frame("examples/demo.flac", utterances=True)
        >>> table.index.names
        FrozenList(['file', 'start', 'end'])
        >>> table["emotion"].iloc[0]
        'neutral'

        Args:
            source, rate, channel: as for a call; or a list of paths.
            utterances: one row per utterance instead of one per window.

        Raises:
            UserError: as for a call, and if pandas is not installed.
        """
        from speech_emotion.infer.offline.frame import frame_of

        if isinstance(source, list):
            rows = [(str(one), list(self(one, channel=channel))) for one in source]
        else:
            named = isinstance(source, str | os.PathLike)
            name = os.fspath(source) if named else str(getattr(source, "name", "") or "")  # type: ignore[arg-type]
            rows = [(name, list(self(source, rate=rate, channel=channel)))]
        return frame_of(
            rows,
            self.labels,
            utterances=utterances,
            prosody=self._prosody,
            dimensions=self._bundle.dimensions,
        )

    def stream(self, rate: int, *, channel: int | None = None, name: str = STREAM) -> Stream:
        """A stream for a program that has its own sound.

        Args:
            rate: sample rate of the sound in Hz, 1000 to 1,000,000.
            channel: channel to take, from 0; None mixes all.
            name: name of the stream in its messages.

        Raises:
            UserError: the rate is out of range.
        """
        analyzer = self._analyzer(check_rate(rate), channel, name=name)
        return Stream(analyzer, channel, self._threads)

    def _analyzer(
        self,
        rate: int,
        channel: int | None,
        *,
        gaps: list[list[int]] | None = None,
        name: str = STREAM,
    ) -> Analyzer:
        return Analyzer(
            self._bundle,
            self._extractors(),
            self._model,
            rate,
            channel=channel,
            gaps=gaps or (),
            stream=name,
            use=self._use,
        )

    def _of_samples(
        self, samples: NDArray[Any], rate: int, channel: int | None
    ) -> Iterator[Message]:
        stream = self.stream(rate, channel=channel)
        check_channel(as_block(samples[:1]).shape[1], channel)
        if not len(samples):
            raise UserError("the source holds no samples")

        def messages() -> Iterator[Message]:
            for start in range(0, len(samples), BLOCK_FRAMES):
                yield from stream.feed(samples[start : start + BLOCK_FRAMES])
            yield from stream.finish()

        return messages()

    def _of_sound(self, sound: Sound, channel: int | None) -> Iterator[Message]:
        analyzer = self._analyzer(sound.blocks.rate, channel, gaps=sound.gaps)
        blocks = analyse(sound, analyzer)
        while True:
            with self._threads.limit(limits=1):  # not while the caller has the messages
                messages = next(blocks, None)
            if messages is None:
                return
            yield from messages


class Stream:
    """One stream of sound; `Pipeline.stream` makes it.

    >>> import soundfile
    >>> from speech_emotion import Pipeline
    >>> samples, rate = soundfile.read("examples/demo.flac", dtype="float32")
    >>> stream = Pipeline("models/small").stream(rate)
    >>> results = []
    >>> for start in range(0, len(samples), 1600):  # 0.1 s, as a microphone gives them
    ...     results += stream.feed(samples[start : start + 1600])
    >>> results += stream.finish()
    >>> results == list(Pipeline("models/small")("examples/demo.flac"))
    True
    """

    def __init__(
        self,
        analyzer: Analyzer,
        channel: int | None,
        threads: threadpoolctl.ThreadpoolController,
    ) -> None:
        self._analyzer: Analyzer | None = analyzer
        self._channel = channel
        self._threads = threads

    def feed(self, samples: NDArray[Any]) -> list[Message]:
        """The messages that the next samples complete; none, one or several.

        Args:
            samples: (frames,) or (frames, channels), any number of frames; float32, float64,
                int16 or int32.

        Raises:
            UserError: another type or shape, or the channel is not there.
        """
        block = as_block(samples)
        check_channel(block.shape[1], self._channel)
        with self._threads.limit(limits=1):
            return self._open().feed(block) if len(block) else []

    def forget_baseline(self) -> None:
        """Forget what the stream usually sounds like, before the next window."""
        self._open().forget_baseline()

    def finish(self) -> list[Message]:
        """The last messages: the end of the utterance in progress. The stream is closed then."""
        with self._threads.limit(limits=1):
            messages = self._open().finish()
        self._analyzer = None
        return messages

    def _open(self) -> Analyzer:
        if self._analyzer is None:
            raise UserError("the stream is finished; pipeline.stream(rate) makes a new one")
        return self._analyzer
