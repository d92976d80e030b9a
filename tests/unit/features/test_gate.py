"""The voice gate on noise, on real speech, and across checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.gate import colored, fan, gain, harmonics, opened
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.features.gate import AdaptiveGate, State, make_gate, transition
from tests.support.examples import examples

Samples = NDArray[np.float32]

RATE = 16000
SPEC = FeatureSpec(gate="adaptive")
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def demo_clips() -> list[Samples]:
    """Eight clips of EMO-DB, each at 0 dBFS."""
    samples, _ = soundfile.read(EXAMPLES / "demo.flac", dtype="float32")
    spans = json.loads((EXAMPLES / "demo.json").read_text())["clips"]
    clips = [samples[span["start"] : span["end"]] for span in spans]
    return [clip * gain(-rms_dbfs(clip)) for clip in clips]


CLIPS = demo_clips()


def noise(seconds: float, level: float, exponent: float = 1.0, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    return colored(round(seconds * RATE), exponent, RATE, rng) * gain(level)


def with_pauses(level: float) -> tuple[Samples, NDArray[np.bool_], NDArray[np.bool_]]:
    """Clips at `level` with pauses of 2 s, and masks of the windows in speech and in pauses."""
    pause = np.zeros(2 * RATE, np.float32)
    samples = np.concatenate([part for clip in CLIPS for part in (pause, clip * gain(level))])
    inside = np.concatenate(
        [np.full(len(part), part is not pause) for clip in CLIPS for part in (pause, clip)]
    )
    starts = range(0, len(samples) - SPEC.window + 1, SPEC.hop)
    covered = np.array([inside[s : s + SPEC.window].mean() for s in starts])
    return samples, covered >= 0.5, covered == 0.0


# Fixed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "speech"), [(-40.1, False), (-39.9, True), (0.0, True)])
def test_fixed_gate_opens_at_its_level(level: float, speech: bool) -> None:
    gate = make_gate(FeatureSpec(gate="fixed", gate_dbfs=-40.0))
    assert gate.step(noise(1.0, level)) is speech


def test_fixed_gate_never_opens_on_digital_silence() -> None:
    gate = make_gate(FeatureSpec(gate="fixed", gate_dbfs=-100.0))
    assert gate.step(noise(1.0, -99.0))
    assert not gate.step(np.zeros(SPEC.window, np.float32))


def test_fixed_gate_has_no_state() -> None:
    gate = make_gate(FeatureSpec())
    assert gate.state() == []
    gate.restore([])
    with pytest.raises(ValueError, match="no state"):
        gate.restore([0.0])


# Noise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [-90.0, -70.0, -50.0, -30.0, -10.0])
@pytest.mark.parametrize("kind", ["white", "pink", "brown", "fan", "hum", "tone", "dc"])
def test_closed_on_steady_noise_from_the_first_window_on(kind: str, level: float) -> None:
    length = 30 * RATE
    sounds: dict[str, Callable[[], NDArray[np.float32]]] = {
        "white": lambda: noise(30, 0.0, 0.0),
        "pink": lambda: noise(30, 0.0, 1.0),
        "brown": lambda: noise(30, 0.0, 2.0),
        "fan": lambda: fan(length, RATE, np.random.default_rng(1)),
        "hum": lambda: harmonics(length, 50.0, 20, RATE),
        "tone": lambda: harmonics(length, 440.0, 2, RATE),
        "dc": lambda: np.ones(length, np.float32),
    }
    assert not opened(SPEC, sounds[kind]() * gain(level)).any()


def test_closed_on_digital_silence() -> None:
    assert not opened(SPEC, np.zeros(10 * RATE, np.float32)).any()


@pytest.mark.parametrize("background", [-200.0, -65.0])
@pytest.mark.parametrize("every", [1600, 4700])
def test_closed_on_clicks(background: float, every: int) -> None:
    sound = noise(20, background)
    for i, at in enumerate(np.arange(RATE, len(sound) - 100, every)):
        sound[at : at + 40] += 0.9 * (-1) ** i
    assert not opened(SPEC, sound).any()


@pytest.mark.parametrize(("seconds", "speech"), [(0.12, False), (0.22, True)])
def test_a_short_sound_does_not_open_the_gate(seconds: float, speech: bool) -> None:
    for start in np.arange(0.2, 0.7, 0.037):
        window = noise(1.0, -60.0)
        window[round(start * RATE) : round((start + seconds) * RATE)] *= gain(30.0)
        assert make_gate(SPEC).step(window) is speech


def test_closed_below_the_lowest_speech_level() -> None:
    samples, _, _ = with_pauses(-85.0)
    assert not opened(SPEC, samples).any()


def test_missing_samples_do_not_open_the_gate_in_noise() -> None:
    sound = noise(20, -30.0)
    for at in (3 * RATE, 7 * RATE + 123, 12 * RATE + 4567):
        sound[at : at + RATE // 10] = 0.0
    sound[15 * RATE + 77 : 17 * RATE + 5] = 0.0
    assert not opened(SPEC, sound).any()


def test_closes_again_after_noise_became_louder() -> None:
    sound = np.concatenate([noise(6, -65.0), noise(10, -30.0, seed=1)])
    ends = np.flatnonzero(opened(SPEC, sound)) * SPEC.hop + SPEC.window
    assert len(ends) > 0, "the first second of louder noise looks like speech"
    assert ends.max() <= 10 * RATE


# Speech ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [-55.0, -40.0, -30.0, -20.0])
@pytest.mark.parametrize(
    ("noise_db", "share"), [(None, 0.97), (-20.0, 0.97), (-10.0, 0.9)], ids=str
)
def test_open_on_speech_and_closed_in_pauses(
    level: float, noise_db: float | None, share: float
) -> None:
    samples, speech, pause = with_pauses(level)
    background = noise(len(samples) / RATE, -75.0 if noise_db is None else level + noise_db)
    verdict = opened(SPEC, samples + background)
    assert verdict[speech].mean() >= share
    assert not verdict[pause].any()


@pytest.mark.parametrize("clip", range(len(CLIPS)))
@pytest.mark.parametrize("silence", [True, False], ids=["digital", "faint"])
def test_open_from_the_first_window(clip: int, silence: bool) -> None:
    first = CLIPS[clip][: SPEC.window] * gain(-30.0)
    assert opened(SPEC, first if silence else first + noise(1.0, -75.0)).all()


@pytest.mark.parametrize(("snr", "share"), [(40.0, 1.0), (10.0, 0.9)])
def test_stays_open_on_long_speech_without_pauses(snr: float, share: float) -> None:
    speech = np.concatenate(2 * CLIPS) * gain(-30.0)
    assert len(speech) > 30 * RATE
    verdict = opened(SPEC, speech + noise(len(speech) / RATE, -30.0 - snr))
    assert verdict.mean() >= share


def test_opens_for_a_quiet_talker_after_a_loud_one() -> None:
    loud, quiet = CLIPS[2] * gain(-12.0), CLIPS[2] * gain(-50.0)
    verdict = opened(SPEC, np.concatenate([loud, quiet]) + noise(2 * len(loud) / RATE, -75.0))
    assert verdict.all()


def test_opens_for_speech_after_noise_has_stopped() -> None:
    parts = [noise(10, -20.0), noise(2, -70.0), CLIPS[0] * gain(-40.0)]
    verdict = opened(SPEC, np.concatenate(parts))
    across = (10 * RATE - SPEC.hop) // SPEC.hop  # half loud, half quiet: looks like speech
    assert not verdict[:across].any()
    assert not verdict[across + 1 : 11 * RATE // SPEC.hop].any()
    assert verdict[-2:].all()


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize(("window_s", "hop_s"), [(0.2, 0.1), (1.0, 0.5), (3.0, 3.0)])
def test_other_rates_and_windows(rate: int, window_s: float, hop_s: float) -> None:
    spec = FeatureSpec(sample_rate=rate, window_s=window_s, hop_s=hop_s, gate="adaptive")
    speech = soxr.resample(np.concatenate(CLIPS) * gain(-30.0), RATE, rate)
    assert opened(spec, speech).mean() >= 0.95
    assert not opened(spec, soxr.resample(noise(30, -30.0), RATE, rate)[rate:]).any()


# Parameters -----------------------------------------------------------------------------


def pulses(height_db: float) -> Samples:
    """One second of noise at -60 dBFS with two louder pulses of 0.2 s."""
    window = noise(1.0, -60.0, 0.0)
    for at in (0.2, 0.7):
        window[round(at * RATE) : round((at + 0.2) * RATE)] *= gain(height_db)
    return window


def test_margin_and_hysteresis() -> None:
    # In white noise the floor lies within 1 dB below the mean level.
    assert not make_gate(SPEC).step(pulses(7.0))
    gate = make_gate(SPEC)
    assert gate.step(pulses(12.0))
    assert gate.step(pulses(7.0)), "while the gate is open, 3 dB less are enough"
    assert not gate.step(pulses(4.0))
    assert not gate.step(pulses(7.0))
    assert not make_gate(FeatureSpec(gate="adaptive", gate_margin_db=15.0)).step(pulses(12.0))


@pytest.mark.parametrize("hold_s", [0.0, 0.5, 1.0])
def test_hold(hold_s: float) -> None:
    spec = FeatureSpec(window_s=0.2, hop_s=0.1, gate="adaptive", gate_hold_s=hold_s)
    sound = noise(6, -60.0, 0.0)
    sound[2 * RATE : 3 * RATE] *= gain(30.0)
    ends = np.flatnonzero(opened(spec, sound)) * spec.hop + spec.window
    # After the sound: the hold, or the windows that still contain 0.1 s of the sound.
    assert ends.max() / RATE == pytest.approx(3.0 + max(hold_s, 0.1), abs=0.1)


@pytest.mark.parametrize(
    ("before", "active", "quiet", "after"),
    [
        (State.CLOSED, False, 0, State.CLOSED),
        (State.CLOSED, True, 0, State.OPEN),
        (State.OPEN, True, 0, State.OPEN),
        (State.OPEN, False, 100, State.HOLD),
        (State.OPEN, False, 101, State.CLOSED),
        (State.HOLD, True, 0, State.OPEN),
        (State.HOLD, False, 100, State.HOLD),
        (State.HOLD, False, 101, State.CLOSED),
    ],
)
def test_transitions(before: State, active: bool, quiet: int, after: State) -> None:
    assert transition(before, active=active, quiet=quiet, hold=100) is after


# Shared frames ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "window_s", "hop_s", "shared"),
    [(16000, 1.0, 0.5, 25), (16000, 1.0, 0.1, 45), (8000, 1.03, 0.5, 26), (16000, 1.0, 0.33, 0)],
)
def test_frames_of_the_previous_window_are_reused_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, rate: int, window_s: float, hop_s: float, shared: int
) -> None:
    spec = FeatureSpec(sample_rate=rate, window_s=window_s, hop_s=hop_s, gate="adaptive")
    samples = np.resize(np.concatenate(demo_clips()), 12 * spec.window).astype(np.float32)
    samples[3 * spec.window : 4 * spec.window] = 0.0
    transformed: list[int] = []
    rfft = np.fft.rfft

    def counted(frames: NDArray[np.float32]) -> NDArray[np.complex64]:
        transformed.append(len(frames))
        return np.asarray(rfft(frames))

    monkeypatch.setattr(np.fft, "rfft", counted)
    gate = AdaptiveGate(spec)
    # In order, then a jump, the same window twice, and back.
    for k in [*range(9), 14, 15, 15, 3, 4]:
        window = samples[k * spec.hop :][: spec.window]
        power = gate._band_power(window)
        assert power.tobytes() == AdaptiveGate(spec)._band_power(window).tobytes()
    frames = spec.window // round(0.02 * rate)
    assert transformed[2:18:2] == [frames - shared] * 8


# Checkpoints ----------------------------------------------------------------------------

SCENES = st.lists(
    st.one_of(
        st.tuples(st.just("noise"), st.sampled_from([-80.0, -60.0, -45.0, -30.0])),
        st.tuples(st.just("speech"), st.sampled_from([-50.0, -35.0, -20.0])),
        st.tuples(st.just("silence"), st.just(0.0)),
    ),
    min_size=1,
    max_size=6,
)
GRIDS = st.sampled_from([(1.0, 0.5), (0.2, 0.1), (0.5, 0.13), (2.0, 2.0)])


def scene(parts: list[tuple[str, float]]) -> Samples:
    made = []
    for i, (kind, level) in enumerate(parts):
        if kind == "speech":
            made.append(CLIPS[i] * gain(level))
        else:
            made.append(noise(2.0, level, seed=i) if kind == "noise" else np.zeros(RATE, "f4"))
    return np.concatenate(made)


@examples(40)
@given(SCENES, GRIDS, st.data())
def test_a_restored_gate_decides_bit_for_bit_the_same(
    parts: list[tuple[str, float]], grid: tuple[float, float], data: st.DataObject
) -> None:
    spec = FeatureSpec(window_s=grid[0], hop_s=grid[1], gate="adaptive")
    samples = scene(parts)
    windows = [
        samples[s : s + spec.window] for s in range(0, len(samples) - spec.window + 1, spec.hop)
    ]
    cut = data.draw(st.integers(0, len(windows)))
    straight, resumed = make_gate(spec), make_gate(spec)
    for window in windows[:cut]:
        straight.step(window)
    checkpoint = straight.state()
    assert all(type(number) is float for number in checkpoint)
    assert len(checkpoint) < 16
    resumed.step(noise(spec.window / RATE, -10.0))  # restore must replace this state
    resumed.restore(json.loads(json.dumps(checkpoint)))
    assert resumed.state() == checkpoint
    for window in windows[cut:]:
        assert resumed.step(window) is straight.step(window)
        assert resumed.state() == straight.state()


def test_reset_gives_the_state_of_a_new_gate() -> None:
    gate = make_gate(SPEC)
    opened_once = [gate.step(CLIPS[0][: SPEC.window]), gate.state() != make_gate(SPEC).state()]
    gate.reset()
    assert all(opened_once)
    assert gate.state() == make_gate(SPEC).state()


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda state: state[:-1],
        lambda state: [*state, 0.0],
        lambda state: [3.0, *state[1:]],
        lambda state: [0.5, *state[1:]],
        lambda state: [state[0], -1.0, *state[2:]],
        lambda state: [*state[:2], 0.5, *state[3:]],
        lambda state: [*state[:-1], float("nan")],
        lambda state: [*state[:-1], float("inf")],
    ],
)
def test_a_malformed_checkpoint_is_refused_and_changes_nothing(change) -> None:  # type: ignore[no-untyped-def]
    gate = make_gate(SPEC)
    gate.step(CLIPS[0][: SPEC.window])
    before = gate.state()
    with pytest.raises(ValueError, match=r"State|state"):
        gate.restore(change(before))
    assert gate.state() == before
