"""Swap the bundle of a running pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire import control_messages, internal, public
from speech_emotion.features.extractor import load_extractors, windows_of
from speech_emotion.features.messages import WindowBuilder
from speech_emotion.infer.classify import submission
from speech_emotion.infer.decision import State
from speech_emotion.infer.model import Model
from speech_emotion.infer.offline.analyzer import BaselineUse
from speech_emotion.infer.session import Session
from tests.support.pipelines import PATIENCE_S, ROOT, comparable

OTHER = ROOT / "tests" / "data" / "models" / "other"
"""Another bundle of the same grid, trained on EMO-DB only."""


def with_exchanges(path: Path, bundles: list[tuple[int, Path]]) -> list[dict[str, Any]]:
    """Offline: the messages of a recording, with another bundle from each given window on."""
    rate = load_bundle(bundles[0][1]).spec.sample_rate
    return messages_of(read_recording(str(path), rate).samples, bundles)


def messages_of(
    samples: NDArray[np.float32], bundles: list[tuple[int, Path]], stream: str = "main"
) -> list[dict[str, Any]]:
    """Offline: the messages of samples, with another bundle from each given window on."""
    first, *others = [(at, load_bundle(folder)) for at, folder in bundles]
    models = {bundle.id: Model(bundle) for _, bundle in (first, *others)}
    analyzers = {bundle.id: load_extractors(bundle) for _, bundle in (first, *others)}
    bundle = first[1]
    analyzer, gate = analyzers[bundle.id](), list[float]()
    state = State(baseline=BaselineUse().empty(bundle))
    messages: list[public.Result | public.Utterance] = []
    pending_utterances: list[public.Utterance] = []
    grid = bundle.spec.grid
    builder = WindowBuilder(stream, "", "", grid)
    for k, window in windows_of(samples, grid):
        for at, other in others:
            if at == k:
                resume = internal.Resume(
                    *(stream, "", k, False, gate, state.to_map(), other.id, bundle.id, True)
                )
                session = Session.resume(resume, other, bundle)
                state, pending_utterances, bundle = session.state, session.pending_utterances, other
                analyzer = analyzers[bundle.id]()
                analyzer.resume(gate)
        analysis = analyzer.analyze(window)
        gate = analysis.gate
        analysed = builder.analysed(k, analysis)
        done, state = submission(analysed, state, models[bundle.id], bundle)
        messages += [*([done.result] if done.result else []), *pending_utterances, *done.utterances]
        pending_utterances = []
    end = builder.end(grid.total(len(samples)), len(samples))
    messages += submission(end, state, models[bundle.id], bundle)[0].messages
    return [comparable(message) for message in messages]


def exchanges(received: list[public.Result]) -> list[tuple[int, str]]:
    """At which window which bundle began, by the results."""
    found: list[tuple[int, str]] = []
    for result in received:
        if not found or found[-1][1] != result.bundle:
            found.append((result.seq, result.bundle))
    return found


def ask_swap(control: Path, bundle: Path) -> control_messages.Swapped:
    """Ask the supervisor at a control socket for another bundle, and wait for the outcome."""
    return ask(control, control_messages.Swap(str(bundle)), control_messages.Swapped)


def swap(bundle: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "supervisor.py", "swap", str(bundle), *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
