"""One analysed window to its submission: model, calibration, decision. Pure except for timing."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.prosody import FRAME
from speech_emotion.common.wire import codec, internal, public
from speech_emotion.infer.baseline import Evidence, observe
from speech_emotion.infer.decision import (
    NOTHING,
    State,
    calibrate,
    cold_probabilities,
    decide,
    dimensions_of,
    finish,
    relative_of,
    sound_flaw,
    speech_of,
)
from speech_emotion.infer.model import Array, Model


def classify(
    window: internal.Window,
    features: Array | None,
    state: State,
    model: Model,
    bundle: Bundle,
) -> tuple[public.Result, list[public.Utterance], State]:
    """The result of one window, the utterances that end with it, and the state after it.

    `decide` for the model's output, with the stream's baseline before and after the window.

    Args:
        features: normalized, float32, (frames, dims); None for a window without speech.
        state: decision state after the previous window.
    """
    before, probabilities, speech, heard = state.baseline, None, 1.0, None
    dimensions = NOTHING
    hop_s = bundle.spec.hop / bundle.spec.sample_rate
    if features is not None:
        output = model.predict(features)
        probabilities, speech = calibrate(output, bundle, before), speech_of(output, bundle)
        dimensions = dimensions_of(output, bundle)
        cold = None if before is None else cold_probabilities(output, bundle)
        if cold is not None and sound_flaw(window, speech, bundle) is None:
            heard = Evidence(relative_of(output, bundle), cold, hop_s)
    result, utterances, after = decide(state, window, probabilities, bundle, speech, dimensions)
    if before is not None and bundle.baseline is not None:
        baseline = observe(before, heard, bundle.baseline, ended=after.speaking is None)
        after = dataclasses.replace(after, baseline=baseline)
        result = dataclasses.replace(
            result, baseline=before.seconds, baseline_forgotten=state.forgotten
        )
    return result, utterances, dataclasses.replace(after, forgotten=False)


def submission(
    window: internal.Window, state: State, model: Model, bundle: Bundle
) -> tuple[internal.Submit, State]:
    """The message to the hub for one window, and the decision state after the window.

    Args:
        state: decision state after the previous window.

    Raises:
        ProtocolError: the window's features do not have the shape of the bundle's spec, or its
            prosody frames are not whole.
    """
    began = time.perf_counter()
    result: public.Result | None = None
    if window.kind == "end":
        utterances, state = finish(state, window, bundle), State()
    else:
        features = _features_of(window, bundle) if window.kind == "speech" else None
        if window.track is not None and len(window.track) % FRAME.itemsize:
            raise codec.ProtocolError(f"window {window.seq} with a part of a prosody frame")
        result, utterances, state = classify(window, features, state, model, bundle)
        milliseconds = (time.perf_counter() - began) * 1000.0
        timing = {"features": window.features_ms, "infer": milliseconds}
        result = dataclasses.replace(result, timing_ms=timing)
    submit = internal.Submit(
        stream=window.stream,
        run=window.run,
        seq=window.seq,
        result=result,
        utterances=utterances,
        ended=window.kind == "end",
        gate=window.gate,
        decision=state.to_map(),
        captured=window.captured,
        bundle=bundle.id,
    )
    return submit, state


def _features_of(window: internal.Window, bundle: Bundle) -> Array:
    shape = (bundle.spec.n_frames, bundle.spec.dims)
    if window.features is None or len(window.features) != 4 * shape[0] * shape[1]:
        raise codec.ProtocolError(f"window {window.seq} without features of shape {shape}")
    return np.frombuffer(window.features, dtype="<f4").reshape(shape)
