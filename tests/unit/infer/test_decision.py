"""From probabilities to a label: smoothing, hysteresis, abstention, utterances, checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.parameters import Calibration, Decision
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.wire.internal import Window
from speech_emotion.common.wire.public import Result, Utterance
from speech_emotion.infer.decision import (
    MAX_UTTERANCE_S,
    State,
    calibrate,
    cold_probabilities,
    decide,
    finish,
    speech_of,
)

LABELS = ("angry", "happy", "neutral")
Step = tuple[str, list[float] | None] | tuple[str, list[float] | None, float]


def bundle(
    output: str = "probabilities", calibration: Calibration | None = None, **decision: Any
) -> Bundle:
    chosen = Decision(**{"smoothing": 0.5, "hysteresis": 0.0, **decision})
    temperatures, spec = calibration or Calibration(), FeatureSpec()
    return Bundle(Path(), "test", "0" * 64, LABELS, spec, "dims", output, temperatures, chosen)


def window(seq: int, kind: str = "speech", **other: Any) -> Window:
    spec = FeatureSpec()
    plain = Window(
        stream="main",
        run="r",
        session="s",
        seq=seq,
        start=seq * spec.hop,
        end=seq * spec.hop + spec.window,
        kind=kind,
        rms_db=-30.0,
        clipped=0.0,
        lost=0,
        skipped=0,
        captured=0.0,
        time=None,
        features_ms=0.0,
        gate=[],
        features=None,
    )
    return dataclasses.replace(plain, **other)


def run(steps: Sequence[Step], using: Bundle) -> list[Result | Utterance]:
    """All messages for a sequence of (kind, probabilities) or (…, probability of speech)."""
    state = State()
    messages: list[Result | Utterance] = []
    for seq, (kind, probabilities, *rest) in enumerate(steps):
        vector = None if probabilities is None else np.array(probabilities)
        speech: list[Any] = rest
        result, utterances, state = decide(state, window(seq, kind), vector, using, *speech)
        messages += [result, *utterances]
    return [*messages, *finish(state, window(len(steps), "end"), using)]


SURE = ("speech", [0.1, 0.8, 0.1])
OTHER = ("speech", [0.8, 0.1, 0.1])
SILENT = ("silence", None)


def test_smoothing_is_exponential_over_speech_windows_only() -> None:
    messages = run([SURE, SILENT, OTHER], bundle(smoothing=0.25))
    third = messages[2]
    assert isinstance(third, Result)
    assert third.smoothed is not None
    assert third.smoothed["angry"] == pytest.approx(0.25 * 0.8 + 0.75 * 0.1)
    assert third.probabilities == {"angry": 0.8, "happy": 0.1, "neutral": 0.1}
    assert third.confidence == max(third.smoothed.values())


def test_two_silent_windows_reset_the_smoothing() -> None:
    messages = run([SURE, SILENT, SILENT, OTHER], bundle())
    last = [one for one in messages if isinstance(one, Result)][-1]
    assert last.smoothed == last.probabilities


def test_hysteresis_keeps_a_label_until_another_leads_clearly() -> None:
    close = ("speech", [0.48, 0.42, 0.10])
    steps = [SURE, close, close, close]
    results = [r for r in run(steps, bundle(smoothing=1.0)) if isinstance(r, Result)]
    assert [r.emotion for r in results] == ["happy", "angry", "angry", "angry"]
    held = run(steps, bundle(smoothing=1.0, hysteresis=0.1))
    results = [r for r in held if isinstance(r, Result)]
    assert [r.emotion for r in results] == ["happy"] * 4
    assert results[1].confidence == pytest.approx(0.42)  # of the published label


def test_hysteresis_changes_the_label_exactly_at_its_width() -> None:
    steps = [("speech", [0.0, 0.75, 0.25]), ("speech", [0.625, 0.375, 0.0])]
    for width, label in ((0.25, "angry"), (0.2501, "happy")):
        messages = run(steps, bundle(smoothing=1.0, hysteresis=width))
        assert [r.emotion for r in messages if isinstance(r, Result)] == ["happy", label]


def test_an_uncertain_window_has_the_confidence_of_the_top_label() -> None:
    """Also while hysteresis keeps another label, which it keeps after the window too."""
    steps = [SURE, ("speech", [0.48, 0.42, 0.10]), ("speech", [0.40, 0.50, 0.10])]
    messages = run(steps, bundle(smoothing=1.0, hysteresis=0.1, min_confidence=0.45))
    results = [r for r in messages if isinstance(r, Result)]
    assert [(r.emotion, r.reason) for r in results[1:]] == [
        ("uncertain", "low_margin"),
        ("happy", None),
    ]
    assert results[1].confidence == pytest.approx(0.48)


@pytest.mark.parametrize(
    ("reason", "decision", "other"),
    [
        ("clipped", {"clipped_fraction": 0.05}, {"clipped": 0.06}),
        ("too_quiet", {"too_quiet_dbfs": -60.0}, {"rms_db": -61.0}),
        ("too_short", {"min_windows": 2}, {}),
        ("low_margin", {"min_confidence": 0.9}, {}),
    ],
)
def test_an_uncertain_window_has_a_reason(
    reason: str, decision: dict[str, Any], other: dict[str, Any]
) -> None:
    probabilities = np.array(SURE[1])
    using = bundle(**decision)
    result, _, _ = decide(State(), window(0, **other), probabilities, using)
    assert (result.emotion, result.reason) == ("uncertain", reason)
    assert result.confidence == pytest.approx(0.8)  # of the top label
    sure, _, _ = decide(State(), window(0), probabilities, bundle())
    assert (sure.emotion, sure.reason) == ("happy", None)


@pytest.mark.parametrize(
    ("decision", "other"),
    [
        ({"clipped_fraction": 0.05}, {"clipped": 0.0499}),
        ({"clipped_fraction": 0.0}, {"clipped": 1.0}),  # 0 turns it off
        ({"too_quiet_dbfs": -30.0}, {"rms_db": -30.0}),
        ({"min_windows": 1}, {}),
        ({"min_confidence": 0.8}, {}),
    ],
)
def test_a_window_at_the_limit_is_not_uncertain(
    decision: dict[str, Any], other: dict[str, Any]
) -> None:
    result, _, _ = decide(State(), window(0, **other), np.array(SURE[1]), bundle(**decision))
    assert (result.emotion, result.reason) == ("happy", None)


def test_too_short_ends_with_the_first_window_that_is_long_enough() -> None:
    steps = [SURE, SILENT, SURE, SURE, SILENT, SILENT, SURE]
    messages = run(steps, bundle(min_windows=3))
    reasons = [r.reason for r in messages if isinstance(r, Result) and r.state == "speech"]
    assert reasons == ["too_short", "too_short", None, "too_short"]
    utterances = [one for one in messages if isinstance(one, Utterance)]
    assert [(one.windows, one.emotion) for one in utterances] == [(3, "happy"), (1, "uncertain")]
    assert utterances[1].confidence == pytest.approx(0.8)


@pytest.mark.parametrize(("least", "emotion"), [(0.8, "happy"), (0.81, "uncertain")])
def test_an_utterance_is_uncertain_below_its_own_limit(least: float, emotion: str) -> None:
    messages = run([SURE], bundle(min_utterance_confidence=least))
    assert [one.emotion for one in messages] == ["happy", emotion]


def test_a_window_without_probabilities_is_speech_for_the_utterance() -> None:
    broken = ("speech", None)
    messages = run([SURE, SILENT, broken, SILENT, SURE, SILENT, SILENT], bundle())
    utterances = [one for one in messages if isinstance(one, Utterance)]
    assert [(one.seq, one.windows) for one in utterances] == [(4, 2)]


def test_a_window_that_is_not_speech_gets_no_label() -> None:
    probabilities = SURE[1]
    steps: list[Step] = [("speech", probabilities, p) for p in (0.9, 0.2, 0.2, 0.9)]
    messages = run(steps, bundle(smoothing=0.5, min_speech=0.5))
    results = [r for r in messages if isinstance(r, Result)]
    # Smoothed like the labels: 0.9, 0.55, 0.375, 0.6375.
    assert [r.reason for r in results] == [None, None, "not_speech", None]
    assert [r.emotion for r in results] == ["happy", "happy", "uncertain", "happy"]
    assert results[2].confidence == pytest.approx(0.8)
    (utterance,) = [u for u in messages if isinstance(u, Utterance)]
    assert (utterance.emotion, utterance.reason) == ("happy", None)


@pytest.mark.parametrize(
    ("decision", "reason"),
    [
        ({}, None),
        ({"min_utterance_speech": 0.3}, None),
        ({"min_utterance_speech": 0.31}, "not_speech"),
        ({"min_windows": 3}, "too_short"),
        ({"min_utterance_confidence": 0.9}, "low_margin"),
        (
            {"min_utterance_speech": 0.31, "min_windows": 3, "min_utterance_confidence": 0.9},
            "not_speech",
        ),
    ],
)
def test_an_uncertain_utterance_has_a_reason(decision: dict[str, Any], reason: str) -> None:
    probabilities = SURE[1]
    steps: list[Step] = [("speech", probabilities, 0.5), ("speech", probabilities, 0.1)]
    (one,) = [u for u in run(steps, bundle(**decision)) if isinstance(u, Utterance)]
    assert one.reason == reason
    assert one.emotion == ("uncertain" if reason else "happy")
    assert one.confidence == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("output", "last", "expected"),
    [
        ("probabilities", 0.25, 0.25),
        ("logits", 0.0, 0.5),
        ("logits", -3e38, 0.0),
        ("logits", np.log(3.0), 0.75),
        ("probabilities", np.nan, 1.0),
    ],
)
def test_the_last_output_is_the_probability_of_speech(
    output: str, last: float, expected: float
) -> None:
    using = dataclasses.replace(bundle(output), speech_output=True)
    scores = np.array([0.2, 0.7, 0.1, last], np.float32)
    assert speech_of(scores, using) == pytest.approx(expected)
    labels = calibrate(scores, using)
    if np.isnan(last):
        assert labels is None
    else:
        assert labels == pytest.approx(calibrate(scores[:3], bundle(output)))
    assert speech_of(scores[:3], bundle(output)) == 1.0


def test_each_temperature_is_applied_to_its_own_probabilities() -> None:
    steps = [SURE, ("speech", [0.3, 0.4, 0.3])]
    plain, sharp = (
        run(steps, bundle(calibration=Calibration(1.0, smoothed, utterance)))
        for smoothed, utterance in ((1.0, 1.0), (0.5, 0.25))
    )
    for before, after in zip(plain, sharp, strict=True):
        if isinstance(before, Result):
            assert isinstance(after, Result)
            assert after.probabilities == before.probabilities
            # The state holds the average itself: the second window is sharpened once.
            assert before.smoothed is not None
            assert after.smoothed == pytest.approx(powered(before.smoothed, 2))
        else:
            assert after.probabilities == pytest.approx(powered(before.probabilities, 4))


def powered(probabilities: dict[str, float], exponent: int) -> dict[str, float]:
    """A temperature of 1/n is the n-th power, normalized."""
    total = sum(p**exponent for p in probabilities.values())
    return {label: p**exponent / total for label, p in probabilities.items()}


def test_results_name_their_stream_run_and_bundle() -> None:
    result, _, state = decide(
        State(), window(3, lost=5, time=7.5), np.array(SURE[1]), box := bundle()
    )
    assert (result.stream, result.run, result.seq, result.bundle) == ("main", "r", 3, box.id)
    assert (result.start, result.end, result.rate) == (24000, 40000, 16000)
    assert (result.lost, result.time, result.rms_db, result.state) == (5, 7.5, -30.0, "speech")
    (utterance,) = finish(state, window(9, "end", time=99.0), box)
    assert (utterance.start, utterance.end, utterance.time) == (24000, 40000, 7.5)
    gap, _, _ = decide(state, window(4, "gap", skipped=8), None, box)
    assert (gap.state, gap.skipped, gap.emotion, gap.confidence) == ("gap", 8, None, None)


def test_an_output_that_is_not_finite_is_uncertain_and_changes_no_state() -> None:
    _, _, before = decide(State(), window(0), np.array(SURE[1]), bundle())
    broken = calibrate(np.array([np.nan, 0.5, 0.5], np.float32), bundle())
    result, utterances, state = decide(before, window(1), broken, bundle())
    assert (result.emotion, result.reason) == ("uncertain", "model_error")
    assert result.confidence is None
    assert not utterances
    assert state == before


@pytest.mark.parametrize(
    ("steps", "seqs"),
    [
        ([SURE, SURE, SILENT, SILENT], [1]),
        ([SURE, SILENT, SURE, SILENT, SILENT], [2]),
        ([SURE, ("gap", None), SURE], [0, 2]),
        ([SURE, SURE], [1]),
        ([SILENT, SILENT], []),
    ],
)
def test_an_utterance_ends(steps: list[Step], seqs: list[int]) -> None:
    utterances = [one for one in run(steps, bundle()) if isinstance(one, Utterance)]
    assert [one.seq for one in utterances] == seqs
    for one in utterances:
        assert one.emotion == "happy"
        assert one.end == one.seq * 8000 + 16000


def test_a_long_utterance_is_published_in_parts() -> None:
    parts = [one for one in run([SURE] * 150, bundle()) if isinstance(one, Utterance)]
    assert len(parts) == 3
    assert all(one.end - one.start <= MAX_UTTERANCE_S * one.rate for one in parts)
    assert sum(one.windows for one in parts) == 150


def test_an_utterance_is_the_mean_of_its_windows() -> None:
    messages = run([SURE, OTHER, OTHER], bundle())
    (one,) = [u for u in messages if isinstance(u, Utterance)]
    assert one.windows == 3
    assert one.probabilities["angry"] == pytest.approx((0.1 + 0.8 + 0.8) / 3)
    assert one.emotion == "angry"


@pytest.mark.parametrize(("temperature", "sharper"), [(0.5, True), (1.0, None), (2.0, False)])
def test_temperature_scales_confidence(temperature: float, sharper: bool | None) -> None:
    output = np.array([0.2, 0.7, 0.1], np.float32)
    calibrated = calibrate(output, bundle(calibration=Calibration(temperature)))
    assert calibrated is not None
    assert calibrated.sum() == pytest.approx(1.0)
    if sharper is None:
        assert calibrated == pytest.approx(output)
    else:
        assert (calibrated.max() > output.max()) == sharper


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize(
    "scores", [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-3e38, 3e38, 0.0], [1e-45, 1e-45, 1e-45]]
)
def test_extreme_outputs_are_probabilities(output: str, scores: list[float]) -> None:
    calibrated = calibrate(
        np.array(scores, np.float32), bundle(output, calibration=Calibration(0.05))
    )
    assert calibrated is not None
    assert np.isfinite(calibrated).all()
    assert calibrated.sum() == pytest.approx(1.0)


def test_the_temperature_grows_with_the_distance_from_the_training_sounds() -> None:
    plain = bundle()
    labels = len(plain.labels)
    tuned = dataclasses.replace(
        plain, distance_output=True, calibration=Calibration(temperature=0.8, distance=3.0)
    )
    same = dataclasses.replace(plain, calibration=Calibration(temperature=0.8))
    output = np.full(labels + 1, 0.1, np.float32)
    output[0] = 1.0 - 0.1 * (labels - 1)

    def confidence(distance: float) -> float:
        output[labels] = distance
        found = calibrate(output, tuned)
        assert found is not None
        return float(found.max())

    usual = calibrate(output[:labels], same)
    assert usual is not None
    assert confidence(1.0) == float(usual.max())
    assert confidence(0.2) > confidence(1.0) > confidence(4.0) > 1 / labels
    assert confidence(-1.0) == confidence(0.0)
    for distance in (0.2, 4.0):  # what a baseline counts does not depend on it
        output[labels] = distance
        counted = cold_probabilities(output, tuned)
        assert counted is not None
        assert counted.tolist() == usual.tolist()
    output[labels] = np.nan
    assert calibrate(output, tuned) is None
    assert cold_probabilities(output, tuned) is None


def test_logits_become_probabilities() -> None:
    logits = np.array([1.0, 3.0, 0.5], np.float32)
    calibrated = calibrate(logits, bundle(output="logits"))
    assert calibrated == pytest.approx(np.exp(logits) / np.exp(logits).sum())


vectors = st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3).map(
    lambda raw: (np.array(raw) / np.sum(raw)).tolist()
)
step = st.tuples(st.just("speech"), vectors, st.floats(0.0, 1.0)) | st.sampled_from(
    [SILENT, ("gap", None), ("speech", None)]
)


@given(st.lists(step, max_size=80), st.integers(0, 80))
def test_decisions_that_resume_from_a_checkpoint_are_the_same(steps: list[Step], cut: int) -> None:
    using = bundle(
        calibration=Calibration(0.9, 0.8, 1.1),
        hysteresis=0.05,
        min_confidence=0.4,
        min_windows=2,
        min_speech=0.3,
        min_utterance_speech=0.4,
    )
    state = State()
    messages: list[Any] = []
    for seq, (kind, probabilities, *rest) in enumerate(steps):
        if seq == cut:
            state = State.from_map(msgpack.unpackb(msgpack.packb(state.to_map())))
        vector = None if probabilities is None else np.array(probabilities)
        speech: list[Any] = rest
        result, utterances, state = decide(state, window(seq, kind), vector, using, *speech)
        messages += [result, *utterances]
    messages += finish(state, window(len(steps), "end"), using)
    assert messages == run(steps, using)
    assert len([one for one in messages if isinstance(one, Result)]) == len(steps)


def test_a_bias_changes_the_label_but_not_the_probabilities() -> None:
    close = ("speech", [0.5, 0.1, 0.4])
    plain, *_ = run([close], bundle())
    biased, utterance = run([close], bundle(bias=(0.0, 0.0, 1.0)))
    assert isinstance(plain, Result)
    assert isinstance(biased, Result)
    assert isinstance(utterance, Utterance)
    assert (plain.emotion, plain.confidence) == ("angry", 0.5)
    assert (biased.emotion, utterance.emotion) == ("neutral", "neutral")
    assert biased.confidence == pytest.approx(0.4)
    assert utterance.confidence == pytest.approx(0.4)
    assert biased.smoothed == plain.smoothed
    assert biased.probabilities == plain.probabilities


def test_the_threshold_is_compared_with_the_confidence_that_is_published() -> None:
    using = bundle(bias=(0.0, 0.0, 1.0), min_confidence=0.45, min_utterance_confidence=0.45)
    for message in run([("speech", [0.5, 0.1, 0.4])], using):
        assert (message.emotion, message.reason) == ("uncertain", "low_margin")
        assert message.confidence == pytest.approx(0.4)


def test_hysteresis_compares_probabilities_with_the_bias() -> None:
    using = bundle(bias=(0.0, 0.0, 1.0), hysteresis=0.2, smoothing=1.0)
    steps: list[Step] = [("speech", [0.1, 0.1, 0.8]), ("speech", [0.66, 0.1, 0.24])]
    first, second, _ = run(steps, using)
    assert (first.emotion, second.emotion) == ("neutral", "neutral")
    assert second.confidence == pytest.approx(0.24)
    changed = run([*steps, ("speech", [0.9, 0.05, 0.05])], using)[2]
    assert changed.emotion == "angry"


def test_no_bias_is_the_same_as_a_bias_of_zero_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    steps: list[Step] = [("speech", rng.dirichlet([1, 1, 1]).tolist()) for _ in range(50)]
    assert run(steps, bundle(hysteresis=0.05)) == run(
        steps, bundle(hysteresis=0.05, bias=(0.0, 0.0, 0.0))
    )
