"""The baseline of a stream: evidence, forgetting with time, the blend, the checkpoint."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.parameters import Calibration, Decision
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.wire import internal
from speech_emotion.infer.baseline import (
    BaselineState,
    Evidence,
    blend,
    observe,
    one_sidedness,
    trust_in,
)
from speech_emotion.infer.classify import submission
from speech_emotion.infer.decision import State, calibrate, speech_of

LABELS = ("angry", "happy", "neutral")
PARAMETERS = Baseline(
    prior=(1.0, 0.0, -1.0),
    bias=(0.0, 0.0, 0.5),
    prior_s=10.0,
    trust=0.5,
    evidence_s=20.0,
    variety=0.0,
    mixed=0.3,
    one_sided=0.45,
    temperature=1.0,
)
EMPTY = BaselineState.empty(3)


def bundle(baseline: Baseline | None = PARAMETERS, output: str = "probabilities") -> Bundle:
    return Bundle(
        *(Path(), "test", "0" * 64, LABELS, FeatureSpec(), "dims", output),
        *(Calibration(temperature=1.5), Decision()),
        speech_output=True,
        baseline=baseline,
    )


def evidence(scores: list[float], cold: list[float] | None = None) -> Evidence:
    return Evidence(np.array(scores), np.array(cold or [0.2, 0.2, 0.6]), 0.5)


def spoken(*utterances: tuple[list[float], int], cold: list[float] | None = None) -> BaselineState:
    """The state after utterances of (relative scores, number of windows)."""
    state = EMPTY
    for scores, windows in utterances:
        for _ in range(windows):
            state = observe(state, evidence(scores, cold), PARAMETERS, ended=False)
        state = observe(state, None, PARAMETERS, ended=True)
    return state


def test_an_utterance_counts_when_it_has_ended() -> None:
    state = observe(EMPTY, evidence([2.0, 0.0, 1.0]), PARAMETERS, ended=False)
    assert (state.total, state.seconds, state.open_seconds) == ([0.0] * 3, 0.0, 0.5)
    state = observe(state, None, PARAMETERS, ended=False)  # a window that is no evidence
    assert state.open_seconds == 0.5
    state = observe(state, None, PARAMETERS, ended=True)
    assert (state.total, state.cold, state.seconds) == ([1.0, 0.0, 0.5], [0.1, 0.1, 0.3], 0.5)
    assert (state.open_total, state.open_cold, state.open_seconds) == ([0.0] * 3, [0.0] * 3, 0.0)
    assert observe(state, None, PARAMETERS, ended=True) == state  # silence changes nothing


@pytest.mark.parametrize(
    ("cold", "share"),
    [
        ([0.1, 0.1, 0.8], 1.0),  # much neutral is what one expects
        ([0.3, 0.3, 0.4], 1.0),
        ([0.375, 0.2, 0.425], 0.5),
        ([0.2, 0.46, 0.34], 0.0),
        ([0.9, 0.05, 0.05], 0.0),
    ],
)
def test_a_stream_of_mostly_one_emotion_is_not_compared_with_itself(
    cold: list[float], share: float
) -> None:
    state = spoken(([2.0, 0.0, 1.0], 40), cold=cold)  # 20 s: half of the trust
    trust = trust_in(state, PARAMETERS, 2)
    assert (trust.weight, trust.share) == pytest.approx((0.25 * share, 0.5 * share), abs=1e-9)
    scores, relative = np.log(cold), np.array([3.0, 0.5, 0.0])
    if share == 0.0:
        blended, temperature = blend(scores, relative, 1.5, trust, PARAMETERS)
        assert (blended.tolist(), temperature) == (scores.tolist(), 1.5)


def test_a_spread_between_utterances_speaks_against_one_emotion() -> None:
    to = dataclasses.replace(PARAMETERS, variety=0.1)
    alike = spoken(*[([1.0, 0.0, 0.0], 10)] * 4, cold=[0.1, 0.4, 0.5])
    assert one_sidedness(alike, to, 2) == pytest.approx(0.4 - 0.1 * math.log(0.1))
    varied = spoken(
        ([3.0, 0.0, 0.0], 10), ([-1.0, 0.0, 0.0], 10), cold=[0.1, 0.4, 0.5]
    )  # deviations of 2: a variance of 4
    assert one_sidedness(varied, to, 2) == pytest.approx(0.4 - 0.1 * math.log(4.1), abs=0.001)
    assert trust_in(alike, to, 2).weight == 0.0 < trust_in(varied, to, 2).weight
    assert one_sidedness(alike, to, None) > one_sidedness(alike, to, 2)  # neutral counts as well


def test_old_speech_loses_its_weight_and_bounds_the_evidence() -> None:
    long_ago, now = [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]
    state = spoken((long_ago, 60), *[(now, 60)] * 200)
    assert state.seconds < PARAMETERS.memory_s + 30.0
    assert state.total[0] / state.seconds < 0.01
    assert state.total[1] / state.seconds == pytest.approx(4.0, abs=0.01)
    kept = math.exp(-30.0 / PARAMETERS.memory_s)
    assert spoken((long_ago, 60), (now, 60)).seconds == pytest.approx(30.0 * (1.0 + kept))


@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_without_evidence_it_is_the_cold_result_bit_for_bit(output: str) -> None:
    chance = np.random.default_rng(1)
    for _ in range(20):
        raw = chance.uniform(0.01, 1.0, 7).astype(np.float32)
        cold = calibrate(np.append(raw[:3], raw[3]), bundle(None, output))
        assert cold is not None
        for baseline in ((EMPTY,), ()):
            warm = calibrate(raw, bundle(output=output), *baseline)
            assert warm is not None
            assert warm.tolist() == cold.tolist()
        assert speech_of(raw, bundle(output=output)) == speech_of(raw[:4], bundle(None, output))


def test_the_blend_is_the_documented_formula() -> None:
    state = spoken(([2.0, 0.0, 1.0], 40))  # 20 s: half of the trust
    cold, relative = np.log([0.2, 0.5, 0.3]), np.array([3.0, 0.5, 0.0])
    mean = (20.0 * np.array([2.0, 0.0, 1.0]) + 10.0 * np.array([1.0, 0.0, -1.0])) / 30.0
    expected = 0.75 * cold + 0.25 * (relative - mean + np.array([0.0, 0.0, 0.5]))
    scores, temperature = blend(cold, relative, 1.5, trust_in(state, PARAMETERS, 2), PARAMETERS)
    assert scores == pytest.approx(expected)
    assert temperature == pytest.approx(1.25)


def test_the_same_voice_is_judged_alike_wherever_its_scores_lie() -> None:
    """A constant in all relative scores, as a room adds it, has no effect with much evidence."""
    cold, relative = np.log([0.2, 0.5, 0.3]), np.array([3.0, 0.5, 0.0])
    unshrunk = dataclasses.replace(PARAMETERS, prior_s=0.0)
    found = []
    for room in ([0.0, 0.0, 0.0], [5.0, -3.0, 1.0]):
        state = spoken(((np.array([1.0, 0.5, 0.0]) + room).tolist(), 60))
        trust = trust_in(state, unshrunk, 2)
        found.append(blend(cold, relative + room, 1.5, trust, unshrunk)[0])
    assert found[0] == pytest.approx(found[1])


def test_an_output_that_is_not_finite_has_no_probabilities() -> None:
    raw = np.array([0.2, 0.5, 0.3, 0.9, 1.0, np.nan, 0.0], np.float32)
    assert calibrate(raw, bundle(), spoken(([1.0, 0.0, 0.0], 9))) is None


numbers = st.floats(-1e6, 1e6)


@given(
    st.lists(
        st.tuples(st.none() | st.lists(numbers, min_size=3, max_size=3), st.booleans()), max_size=60
    ),
    st.integers(0, 60),
)
def test_a_checkpoint_anywhere_changes_no_bit_and_stays_small(
    windows: list[tuple[list[float] | None, bool]], at: int
) -> None:
    state = resumed = EMPTY
    for k, (scores, ended) in enumerate(windows):
        if k == at:
            packed = msgpack.packb(State(baseline=resumed).to_map())
            assert len(packed) < 400
            found = State.from_map(msgpack.unpackb(packed)).baseline
            assert found is not None
            resumed = found
        heard = None if scores is None else evidence(scores)
        state = observe(state, heard, PARAMETERS, ended=ended)
        resumed = observe(resumed, heard, PARAMETERS, ended=ended)
    assert resumed == state


class Fixed:
    """A model with the same output for every window."""

    def predict(self, _: object) -> np.ndarray:
        return np.array([0.2, 0.2, 0.6, 0.9, 1.0, 0.0, 2.0], np.float32)


def heard(kinds: list[str], **window: Any) -> list[BaselineState | None]:
    """The baseline after each window of a stream."""
    using = dataclasses.replace(
        bundle(), decision=Decision(min_speech=0.5, clipped_fraction=0.1, too_quiet_dbfs=-60.0)
    )
    spec = using.spec
    state, found = State(baseline=EMPTY), []
    usual = {"rms_db": -30.0, "clipped": 0.0, "lost": 0, "skipped": 0, "captured": 0.0}
    for seq, kind in enumerate(kinds):
        one = internal.Window(
            *("main", "r", "s", seq, seq * spec.hop, seq * spec.hop + spec.window, kind),
            **{**usual, **window},
            time=None,
            features_ms=0.0,
            gate=[],
            features=bytes(4 * spec.n_frames * spec.dims) if kind == "speech" else None,
        )
        submit, state = submission(one, state, Fixed(), using)  # type: ignore[arg-type]
        assert State.from_map(submit.decision) == state
        found.append(state.baseline)
    return found


@pytest.mark.parametrize("ending", [["silence", "silence"], ["gap"]])
def test_silence_and_gaps_end_the_utterance_and_keep_the_baseline(ending: list[str]) -> None:
    *_, before, after = heard(["speech"] * 4 + ending)
    assert after is not None
    assert after.seconds == 2.0
    assert after.total == pytest.approx([2.0, 0.0, 4.0])
    assert before is not None
    assert before.seconds == 0.0
    later = heard(["speech"] * 4 + ending + ["gap"] * 50 + ["silence"] * 50)[-1]
    assert later == after


@pytest.mark.parametrize("flaw", [{"clipped": 0.5}, {"rms_db": -70.0}])
def test_flawed_sound_is_no_evidence(flaw: dict[str, float]) -> None:
    assert heard(["speech"] * 4 + ["gap"], **flaw)[-1] == EMPTY


def test_the_end_of_a_stream_forgets_it() -> None:
    assert heard(["speech", "end"])[-1] is None
