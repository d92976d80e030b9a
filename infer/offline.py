"""A whole recording to results and utterances: the very maps that the live socket gives."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from speech_emotion.capture.offline import Recording, read_recording
from speech_emotion.common.bundle.grid import WindowGrid, missing_samples
from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.wire import internal, public
from speech_emotion.features.extractor import ExtractorFactory, load_extractors, windows_of
from speech_emotion.infer.decision import State
from speech_emotion.infer.model import Model
from speech_emotion.infer.service import submission

STREAM = "main"
RUN = "offline"


def results_of(
    recording: Recording,
    bundle: Bundle,
    analyzers: ExtractorFactory,
    model: Model,
    *,
    stream: str = STREAM,
) -> Iterator[public.Result | public.Utterance]:
    """Everything a subscriber gets for a recording at the bundle's rate, in its order.

    A gap is one message per window that it voids, however long it is.
    """
    samples = recording.samples
    analyzer = analyzers()
    grid = WindowGrid(bundle.spec.window, bundle.spec.hop)
    state = State()
    end = internal.Window(
        stream=stream,
        run=RUN,
        session=RUN,
        seq=grid.total(len(samples)),
        start=grid.start(grid.total(len(samples))),
        end=len(samples),
        kind="end",
        rms_db=0.0,
        clipped=0.0,
        lost=0,
        skipped=0,
        captured=0.0,
        time=None,
        features_ms=0.0,
        gate=[],
        features=None,
    )
    for k, window in windows_of(samples, grid):
        missing = missing_samples(recording.gaps, grid.start(k), grid.end(k))
        analysis = analyzer.analyze(window, missing=missing)
        analysed = internal.Window(
            stream=stream,
            run=RUN,
            session=RUN,
            seq=k,
            start=grid.start(k),
            end=grid.end(k),
            kind=analysis.kind,
            rms_db=analysis.rms_db,
            clipped=analysis.clipped,
            lost=missing,
            skipped=0,
            captured=0.0,
            time=None,
            features_ms=0.0,
            gate=analysis.gate,
            features=None if analysis.features is None else analysis.features.tobytes(),
        )
        submit, state = submission(analysed, state, model, bundle, timed=False)
        yield from submit.messages
    submit, _ = submission(end, state, model, bundle, timed=False)
    yield from submit.messages


def report(file: str, path: Path, runtime: str, *, as_json: bool) -> int:
    """`python -m infer FILE`: one line per result and utterance; an exit code.

    Raises:
        UserError: the file or the bundle is missing or wrong.
    """
    bundle = load_bundle(path)
    analyzers = load_extractors(bundle)
    model = Model(bundle, runtime)
    recording = read_recording(file, bundle.spec.sample_rate)
    for message in results_of(recording, bundle, analyzers, model):
        if as_json:
            mark = {"utterance": True} if isinstance(message, public.Utterance) else {}
            print(json.dumps({**public.to_json_map(message), **mark}, allow_nan=False))
        else:
            print(_line(message))
    sys.stdout.flush()
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
