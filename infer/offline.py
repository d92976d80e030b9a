"""A whole recording to results and utterances, equal to those that the live socket publishes."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from speech_emotion.capture.offline import Recording, read_recording
from speech_emotion.common.bundle.grid import missing_samples
from speech_emotion.common.bundle.manifest import (
    Bundle,
    load_bundle,
    warn_without_baseline,
    warn_without_operating_point,
)
from speech_emotion.common.wire import public
from speech_emotion.features.extractor import ExtractorFactory, load_extractors, windows_of
from speech_emotion.features.messages import WindowBuilder
from speech_emotion.infer.baseline import BaselineState
from speech_emotion.infer.classify import submission
from speech_emotion.infer.decision import State
from speech_emotion.infer.model import Model

STREAM = "main"
RUN = "offline"

_encode = json.JSONEncoder(allow_nan=False).encode


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


def results_of(
    recording: Recording,
    bundle: Bundle,
    extractors: ExtractorFactory,
    model: Model,
    *,
    stream: str = STREAM,
    use: BaselineUse = BaselineUse(),
) -> Iterator[public.Result | public.Utterance]:
    """All messages of a recording at the bundle's rate, in the order of a live subscriber.

    A gap gives one message per window that it makes a gap, for any length.
    """
    samples = recording.samples
    extractor = extractors()
    grid = bundle.spec.grid
    builder = WindowBuilder(stream, RUN, RUN, grid)
    state = State(baseline=use.empty(bundle))
    for k, window in windows_of(samples, grid):
        missing = missing_samples(recording.gaps, grid.start(k), grid.end(k))
        analysis = extractor.analyze(window, missing=missing)
        message = builder.analysed(k, analysis, lost=missing)
        if k in use.forget_at:
            state = dataclasses.replace(state, baseline=use.empty(bundle), forgotten=True)
        submit, state = submission(message, state, model, bundle, timed=False)
        yield from submit.messages
    end = builder.end(grid.total(len(samples)), len(samples))
    submit, _ = submission(end, state, model, bundle, timed=False)
    yield from submit.messages


def report(
    file: str,
    path: Path,
    runtime: str,
    *,
    as_json: bool,
    use: BaselineUse,
    sensitivity: str = "medium",
) -> int:
    """`python -m infer FILE`: print one line per result and utterance. Returns the exit code.

    Raises:
        UserError: the file or the bundle is missing or invalid; after all output: the file is
            damaged from some sample on.
    """
    bundle = load_bundle(path).at(sensitivity)
    if use.mode == "stream":
        warn_without_baseline(bundle)
    warn_without_operating_point(bundle, sensitivity)
    extractors = load_extractors(bundle)
    model = Model(bundle, runtime)
    recording = read_recording(file, bundle.spec.sample_rate)
    for message in results_of(recording, bundle, extractors, model, use=use):
        if as_json:
            kind = {"utterance": True} if isinstance(message, public.Utterance) else {}
            print(_encode({**public.to_json_map(message), **kind}))
        else:
            print(_line(message))
    sys.stdout.flush()
    if recording.damage is not None:
        raise recording.damage
    return 0


def _line(message: public.Result | public.Utterance) -> str:
    span = f"{message.start / message.rate:8.2f} to {message.end / message.rate:7.2f} s"
    if isinstance(message, public.Utterance):
        return f"{span}  = {message.emotion} {message.confidence:.0%} ({message.windows} windows)"
    if message.confidence is None:
        return f"{span}  {message.state:<10} {message.rms_db:6.1f} dBFS"
    doubt = f" ({message.reason})" if message.reason else ""
    level = f"{message.rms_db:6.1f} dBFS"
    return f"{span}  {message.emotion:<10} {level}  {message.confidence:.0%}{doubt}"
