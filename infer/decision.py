"""From a window's probabilities to a label: calibration, smoothing, hysteresis, abstention.

The voice gate also opens for music or a closing door. A model with `speech_output` gives the
probability that a window is speech; below a threshold of it the window gets no label.

Pure: `decide(state, window) -> (result, utterances, state)`. The state is a checkpoint of plain
values; decisions that resume from it equal the uninterrupted ones bit for bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.personal import Personal
from speech_emotion.common.wire.internal import Window
from speech_emotion.common.wire.public import Result, Utterance
from speech_emotion.infer.baseline import BaselineState, blend, trust_in
from speech_emotion.infer.prosody import extend, prosody

UNCERTAIN = "uncertain"
NOT_SPEECH = "not_speech"
SILENT_WINDOWS_END = 2
"""Number of consecutive windows without speech that ends an utterance."""
MAX_UTTERANCE_S = 30.0

NO_LABELS = "no_labels"
"""Reason of `uncertain` where a bundle has dimensions only."""

Vector = NDArray[np.float64]
NOTHING: Vector = np.zeros(0)


@dataclasses.dataclass(frozen=True)
class Speaking:
    """The utterance in progress.

    Attributes:
        first: `seq` of its first speech window.
        last: `seq` of its last speech window.
        start, end: sample span from the first to the last of them.
        time: unix time of `end`, where the stream has one.
        total: sum of the calibrated probabilities of its windows, in label order.
        windows: number of its speech windows.
        speech: sum of their probabilities of being speech.
        track: prosody frames from the first window to the last; None: not measured.
        dimensions: sum of the dimensions of its windows, in the bundle's order; empty without.
    """

    first: int
    last: int
    start: int
    end: int
    time: float | None
    total: list[float]
    windows: int
    speech: float
    track: bytes | None = None
    dimensions: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class State:
    """All inputs of the next decision except its window.

    Attributes:
        average: exponential average of the calibrated probabilities; None before speech.
        speech: exponential average of the probability of speech.
        label: the label published last; hysteresis favours it.
        silent: windows without speech since the last speech window.
        speaking: the utterance in progress, or None.
        baseline: what the stream usually sounds like; None without a baseline.
        forgotten: the baseline was forgotten before the next window.
    """

    average: list[float] | None = None
    speech: float = 1.0
    label: str | None = None
    silent: int = 0
    speaking: Speaking | None = None
    baseline: BaselineState | None = None
    forgotten: bool = False

    def to_map(self) -> dict[str, Any]:
        """The plain map that a checkpoint holds."""
        # dataclasses.asdict would copy every value deeply. These values never change.
        speaking = None if self.speaking is None else dict(vars(self.speaking))
        baseline = None if self.baseline is None else dict(vars(self.baseline))
        return {**vars(self), "speaking": speaking, "baseline": baseline}

    @classmethod
    def from_map(cls, table: dict[str, Any]) -> State:
        """From a checkpoint's map; an empty one is the start of a stream."""
        speaking, baseline = table.get("speaking"), table.get("baseline")
        return cls(
            **{
                **table,
                "speaking": Speaking(**speaking) if speaking else None,
                "baseline": BaselineState(**baseline) if baseline else None,
            }
        )


def calibrate(
    output: NDArray[np.float32], bundle: Bundle, baseline: BaselineState | None = None
) -> Vector | None:
    """The model's output for one window as calibrated probabilities.

    With the map that was fitted to labels of the bundle's users, where it has one. None if the
    output is not finite: such a window has no probabilities.

    Args:
        baseline: of the stream before the window; None: the relative scores are not used.
    """
    probabilities = impersonal(output, bundle, baseline)
    if probabilities is None or bundle.personal is None:
        return probabilities
    return personalize(probabilities, bundle.personal)


def impersonal(
    output: NDArray[np.float32], bundle: Bundle, baseline: BaselineState | None = None
) -> Vector | None:
    """`calibrate` without the map of the bundle's users.

    Temperature scaling (Guo et al., 2017), computed in float64.
    """
    if not np.isfinite(output).all():
        return None
    scores = cold_scores(output, bundle)
    temperature = bundle.calibration.temperature
    if baseline is not None and bundle.baseline is not None:
        relative, to = relative_of(output, bundle), bundle.baseline
        trust = trust_in(baseline, to, bundle.neutral)
        scores, temperature = blend(scores, relative, temperature, trust, to)
    return _softmax(scores / (temperature * growth_of(output, bundle)))


def personalize(probabilities: Vector, personal: Personal) -> Vector:
    """Probabilities (labels,) after the map of the bundle's users, see `Personal`."""
    scores = np.log(np.maximum(probabilities, 1e-12))
    scores -= scores.mean()
    # A sum of few numbers: a library's matrix product may round otherwise on other hardware.
    mapped = (np.array(personal.matrix) * scores).sum(axis=1) + np.array(personal.bias)
    return _softmax(mapped)


def cold_probabilities(output: NDArray[np.float32], bundle: Bundle) -> Vector | None:
    """`impersonal` without a baseline and without the growth by the distance.

    A stream's baseline counts these: its parameters were chosen for them.
    """
    if not np.isfinite(output).all():
        return None
    return _softmax(cold_scores(output, bundle) / bundle.calibration.temperature)


def growth_of(output: NDArray[np.float32], bundle: Bundle) -> float:
    """The factor of a window's temperature: the less it sounds like the training, the higher."""
    return bundle.calibration.growth(distance_of(output, bundle))


def distance_of(output: NDArray[np.float32], bundle: Bundle) -> float:
    """How far a window is from the training sounds; 1, the mean of these, without the output."""
    return float(output[bundle.distance_at]) if bundle.distance_output else 1.0


def cold_scores(output: NDArray[np.float32], bundle: Bundle) -> Vector:
    """The logits, or log probabilities, of the labels without a baseline, (labels,)."""
    scores = output[: len(bundle.labels)].astype(np.float64)
    return np.log(np.maximum(scores, 1e-12)) if bundle.output == "probabilities" else scores


def relative_of(output: NDArray[np.float32], bundle: Bundle) -> Vector:
    """The relative scores in the output of a model with `relative_output`, (labels,)."""
    end = bundle.relative_end
    return output[end - len(bundle.labels) : end].astype(np.float64)


def dimensions_of(output: NDArray[np.float32], bundle: Bundle) -> Vector:
    """The values of the bundle's dimensions, 0 to 1, (dimensions,)."""
    values = output[bundle.relative_end : bundle.outputs].astype(np.float64)
    return np.clip(values, 0.0, 1.0)


def speech_of(output: NDArray[np.float32], bundle: Bundle) -> float:
    """The model's probability that a window is speech; 1 without a (finite) `speech_output`."""
    if not bundle.speech_output or not np.isfinite(output[len(bundle.labels)]):
        return 1.0
    score = output[len(bundle.labels)]
    if bundle.output == "probabilities":
        return float(score)
    return float(1.0 / (1.0 + np.exp(-np.clip(score.astype(np.float64), -50.0, 50.0))))


def _softmax(scores: Vector) -> Vector:
    if not len(scores):  # a bundle without labels
        return scores
    raised: Vector = np.exp(scores - scores.max())
    raised /= raised.sum()
    return raised


def _sharpen(probabilities: Vector, temperature: float) -> Vector:
    if temperature == 1.0:
        return probabilities
    return _softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature)


def _weighted(probabilities: Vector, bundle: Bundle) -> Vector:
    """The probabilities by which the label is chosen: with the decision's bias per label.

    The published probabilities are without it: it says how costly a wrong label is, not how
    likely a label is.
    """
    bias = bundle.decision.bias
    if not any(bias):
        return probabilities
    return _softmax(np.log(np.maximum(probabilities, 1e-12)) + np.array(bias))


def decide(
    state: State,
    window: Window,
    probabilities: Vector | None,
    bundle: Bundle,
    speech: float = 1.0,
    dimensions: Vector = NOTHING,
) -> tuple[Result, list[Utterance], State]:
    """The result of one window, the utterances that end with it, and the state after it.

    Args:
        state: the state after the previous window.
        window: the analysed window; kind `speech`, `silence` or `gap`.
        probabilities: calibrated, (labels,), for speech; None if the model output is not finite.
        speech: probability that the window is speech, see `speech_of`.
        dimensions: see `dimensions_of`.
    """
    if window.kind != "speech":
        return _without_speech(state, window, bundle)
    if probabilities is None:
        result = _result(window, bundle, emotion=UNCERTAIN, reason="model_error")
        return result, [], dataclasses.replace(state, silent=0)
    decision = bundle.decision
    if state.average is None:
        average, voiced = probabilities, speech
    else:
        weight = decision.smoothing
        average = weight * probabilities + (1.0 - weight) * np.array(state.average)
        voiced = weight * speech + (1.0 - weight) * state.speech
    smoothed = _sharpen(average, bundle.calibration.smoothed_temperature)
    weighted = _weighted(smoothed, bundle)
    label = _label(weighted, state.label, bundle)
    speaking = _extend(state.speaking, window, probabilities, speech, dimensions, bundle)
    likely = None if label is None else float(smoothed[bundle.labels.index(label)])
    flaw = sound_flaw(window, voiced, bundle)
    reason = flaw or _uncertain_reason(likely, speaking, bundle)
    if reason and label is not None:
        likely = float(smoothed[int(weighted.argmax())])
    result = _result(
        window,
        bundle,
        emotion=UNCERTAIN if reason else label,
        confidence=likely,
        probabilities=_by_name(probabilities, bundle.labels),
        smoothed=_by_name(smoothed, bundle.labels),
        reason=reason,
        dimensions=None if flaw else _by_name(dimensions, bundle.dimensions) or None,
    )
    utterances = []
    open_utterance: Speaking | None = speaking
    if speaking.end - speaking.start >= MAX_UTTERANCE_S * bundle.spec.sample_rate:
        utterances = [_utterance(speaking, window, bundle)]
        open_utterance = None
    return result, utterances, State(average.tolist(), voiced, label, 0, open_utterance)


def _label(weighted: Vector, published: str | None, bundle: Bundle) -> str | None:
    """The label of a window, with hysteresis; None where the bundle has none."""
    if not bundle.labels:
        return None
    top = int(weighted.argmax())
    if published is None or bundle.labels[top] == published:
        return bundle.labels[top]
    lead = weighted[top] - weighted[bundle.labels.index(published)]
    return published if lead < bundle.decision.hysteresis else bundle.labels[top]


def _without_speech(
    state: State, window: Window, bundle: Bundle
) -> tuple[Result, list[Utterance], State]:
    result = _result(window, bundle)
    silent = state.silent + 1
    if window.kind == "gap" or silent >= SILENT_WINDOWS_END:
        return result, finish(state, window, bundle), State()
    return result, [], dataclasses.replace(state, silent=silent)


class StreamMessage(Protocol):
    """Any message that belongs to one run of a stream."""

    @property
    def stream(self) -> str: ...
    @property
    def run(self) -> str: ...


def finish(state: State, message: StreamMessage, bundle: Bundle) -> list[Utterance]:
    """The utterance in progress, ended by a silence, a gap, the end or a bundle swap."""
    return [_utterance(state.speaking, message, bundle)] if state.speaking else []


def _extend(
    speaking: Speaking | None,
    window: Window,
    probabilities: Vector,
    speech: float,
    dimensions: Vector,
    bundle: Bundle,
) -> Speaking:
    if speaking is None:
        return Speaking(
            first=window.seq,
            last=window.seq,
            start=window.start,
            end=window.end,
            time=window.time,
            total=probabilities.tolist(),
            windows=1,
            speech=speech,
            track=window.track,
            dimensions=dimensions.tolist(),
        )
    track, spec = speaking.track, bundle.spec
    if track is not None and window.track is not None:
        hops = window.seq - speaking.last
        track = extend(track, window.track, hops, spec.hop, spec.sample_rate)
    return dataclasses.replace(
        speaking,
        last=window.seq,
        end=window.end,
        time=window.time,
        total=(np.array(speaking.total) + probabilities).tolist(),
        windows=speaking.windows + 1,
        speech=speaking.speech + speech,
        track=track,
        dimensions=(np.array(speaking.dimensions) + dimensions).tolist(),
    )


def _uncertain_reason(confidence: float | None, speaking: Speaking, bundle: Bundle) -> str | None:
    if speaking.windows < bundle.decision.min_windows:
        return "too_short"
    if confidence is None:
        return NO_LABELS
    return "low_margin" if confidence < bundle.decision.min_confidence else None


def sound_flaw(window: Window, speech: float, bundle: Bundle) -> str | None:
    """Why the sound of a window is no speech to judge; None if it is.

    Args:
        speech: probability that it is speech.
    """
    decision = bundle.decision
    if window.clipped >= decision.clipped_fraction > 0:
        return "clipped"
    if window.rms_db < decision.too_quiet_dbfs:
        return "too_quiet"
    return NOT_SPEECH if speech < decision.min_speech else None


def _utterance(speaking: Speaking, message: StreamMessage, bundle: Bundle) -> Utterance:
    mean = np.array(speaking.total) / speaking.windows
    probabilities = _sharpen(mean, bundle.calibration.utterance_temperature)
    label = _label(_weighted(probabilities, bundle), None, bundle)
    confidence = 0.0 if label is None else float(probabilities[bundle.labels.index(label)])
    reason = None
    if speaking.speech / speaking.windows < bundle.decision.min_utterance_speech:
        reason = NOT_SPEECH
    elif speaking.windows < bundle.decision.min_windows:
        reason = "too_short"
    elif label is None:
        reason = NO_LABELS
    elif confidence < bundle.decision.min_utterance_confidence:
        reason = "low_margin"
    spec = bundle.spec
    return Utterance(
        stream=message.stream,
        run=message.run,
        seq=speaking.last,
        start=speaking.start,
        end=speaking.end,
        rate=spec.sample_rate,
        time=speaking.time,
        emotion=UNCERTAIN if reason or label is None else label,
        confidence=confidence,
        probabilities=_by_name(probabilities, bundle.labels),
        reason=reason,
        windows=speaking.windows,
        bundle=bundle.id,
        prosody=prosody(speaking.track, spec.hop, spec.sample_rate) if speaking.track else None,
        dimensions=None
        if reason == NOT_SPEECH
        else _by_name(np.array(speaking.dimensions) / speaking.windows, bundle.dimensions) or None,
    )


def _by_name(values: Vector, names: tuple[str, ...]) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _result(
    window: Window,
    bundle: Bundle,
    *,
    emotion: str | None = None,
    confidence: float | None = None,
    probabilities: dict[str, float] | None = None,
    smoothed: dict[str, float] | None = None,
    reason: str | None = None,
    dimensions: dict[str, float] | None = None,
) -> Result:
    return Result(
        stream=window.stream,
        run=window.run,
        seq=window.seq,
        start=window.start,
        end=window.end,
        rate=bundle.spec.sample_rate,
        time=window.time,
        state=window.kind,
        emotion=emotion,
        confidence=confidence,
        probabilities=probabilities,
        smoothed=smoothed,
        reason=reason,
        rms_db=window.rms_db,
        lost=window.lost,
        skipped=window.skipped,
        timing_ms=None,
        bundle=bundle.id,
        dimensions=dimensions,
    )
