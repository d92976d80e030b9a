"""Corpora, splits, metrics, calibration and augmentation; without TensorFlow."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.bundle.parameters import Calibration
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.train.bundle.convert import layout_for
from speech_emotion.train.data.augment import (
    Odds,
    augment,
    crop_speech,
    overlay_spectrogram,
    quantize,
    speech_dbfs,
    tilt_spectrogram,
)
from speech_emotion.train.data.clips import (
    LABEL_SETS,
    Clip,
    check_sounds,
    check_split,
    mapping,
    read_manifest,
    select,
)
from speech_emotion.train.data.corpora import read_corpus
from speech_emotion.train.data.dataset import active
from speech_emotion.train.data.feature_statistics import FeatureStatistics
from speech_emotion.train.data.nonspeech import mix
from speech_emotion.train.data.splits import leave_corpus_out, random_folds, speaker_folds
from speech_emotion.train.evaluation.calibration import (
    confidence_gap,
    fit_distance,
    fit_gap,
    fit_temperature,
    nll,
)
from speech_emotion.train.evaluation.metrics import (
    ece,
    figures,
    risk_at,
    risk_coverage,
    threshold_at,
    uar,
)
from speech_emotion.train.evaluation.webrtc_vad import replace_speech_output, voiced_share
from speech_emotion.train.model.teacher import soft_labels

RATE = 16000


def clip(speaker: str, corpus: str = "A", emotion: str = "sad", number: int = 0) -> Clip:
    name = f"{corpus}/{speaker}-{emotion}-{number}.wav"
    return Clip(Path(name), corpus, f"{corpus}_{speaker}", "", emotion, name)


# --- splits --------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(0, 12), st.sampled_from(["sad", "happy"])),
        min_size=10,
        max_size=80,
    ),
    st.integers(0, 1000),
)
def test_no_speaker_and_no_clip_crosses_any_split(
    rows: list[tuple[str, int, str]], seed: int
) -> None:
    clips = [clip(str(s), corpus, emotion, i) for i, (corpus, s, emotion) in enumerate(rows)]
    splits = speaker_folds(clips, seed=seed) + leave_corpus_out(clips)
    for split in splits:
        sides = [{clips[i].speaker for i in side} for side in (split.train, split.test)]
        assert not sides[0] & sides[1]
        assert sorted([*split.train, *split.test]) == list(range(len(clips)))
    folds = [i for split in speaker_folds(clips, seed=seed) for i in split.test]
    assert sorted(folds) == list(range(len(clips)))


def test_the_check_finds_speakers_on_both_sides_of_a_random_split() -> None:
    clips = [clip(str(i % 4), number=i) for i in range(40)]
    split = random_folds(clips)[0]
    with pytest.raises(UserError, match="speakers on both sides of the split: A_0"):
        check_split([clips[i] for i in split.train], [clips[i] for i in split.test])


def test_the_check_finds_the_same_file_under_two_speakers() -> None:
    one, other = clip("1"), clip("1")
    other = Clip(other.path, "A", "A_2", "", "sad", "again")
    with pytest.raises(UserError, match="clips on both sides"):
        check_split([one], [other])


# --- corpora -------------------------------------------------------------------------------

LAYOUTS = {
    "ravdess": ("Actor_02/03-01-05-02-01-01-02.wav", "RAVDESS_02", "female", "angry"),
    "emodb": ("wav/03a01Fa.wav", "EMODB_03", "male", "happy"),
    "nemo": ("samples/SB0_sadness_12.wav", "NEMO_SB0", "", "sad"),
    "cremad": ("AudioWAV/1001_DFA_ANG_XX.wav", "CREMAD_1001", "male", "angry"),
    "tess": ("OAF_Fear/OAF_back_ps.wav", "TESS_OAF", "female", "surprise"),
    "savee": ("AudioData/DC/sa01.wav", "SAVEE_DC", "male", "sad"),
    "urdu": ("Angry/SF1_F10_A010.wav", "URDU_SF1", "female", "angry"),
    "iemocap": (
        "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav",
        "IEMOCAP_Ses01M",
        "male",
        "excited",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_public_layouts(name: str, tmp_path: Path) -> None:
    file, speaker, gender, emotion = LAYOUTS[name]
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).touch()
    (tmp_path / "Actor_02" if name == "ravdess" else tmp_path).joinpath("notes.txt").touch()
    if name == "cremad":
        (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n1001,51,Male\n")
    if name == "iemocap":
        labels = tmp_path / "Session1/dialog/EmoEvaluation"
        labels.mkdir(parents=True)
        (labels / "Ses01F_impro01.txt").write_text(
            "% [START - END] TURN_NAME EMOTION [V, A, D]\n"
            "[6.2 - 8.2]\tSes01F_impro01_M001\texc\t[2.5, 2.5, 2.5]\nC-E2:\tNeutral;\n"
        )
    (found,) = read_corpus(name, tmp_path)
    assert (found.speaker, found.gender, found.emotion) == (speaker, gender, emotion)
    assert found.path == tmp_path / file


def test_a_folder_without_the_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no file of tess"):
        read_corpus("tess", tmp_path)
    with pytest.raises(UserError, match="no such corpus"):
        read_corpus("nowhere", tmp_path)


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_manifest(tmp_path: Path) -> None:
    row = {"path": "x/1.wav", "corpus": "X", "speaker": "X_1", "emotion": "Calm"}
    (found,) = read_manifest(write_manifest(tmp_path / "m.csv", [row]), tmp_path / "root")
    assert found.path == tmp_path / "root" / "x" / "1.wav"
    assert found.emotion == "calm"
    with pytest.raises(UserError, match="line 2 has no speaker"):
        read_manifest(write_manifest(tmp_path / "m.csv", [row | {"speaker": ""}]))
    del row["speaker"]
    with pytest.raises(UserError, match="has no column speaker"):
        read_manifest(write_manifest(tmp_path / "m.csv", [row]))
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path / "none.csv")


def test_labels_outside_the_set_are_dropped_and_counted() -> None:
    clips = [clip("1", emotion=e) for e in ("calm", "excited", "fear", "fear", "sad")]
    kept, dropped = select(clips, mapping(LABEL_SETS["four"]))
    assert [c.emotion for c in kept] == ["neutral", "happy", "sad"]
    assert dropped == {"A:fear": 2}
    assert mapping(["calm", "neutral"])["calm"] == "calm"


def test_duplicates_and_silent_clips_are_errors() -> None:
    sound = np.sin(np.arange(100, dtype=np.float32))
    with pytest.raises(UserError, match=r"sad-1\.wav and A/1-sad-0\.wav: the same samples twice"):
        check_sounds([clip("1"), clip("1", number=1)], [sound, sound.copy()])
    with pytest.raises(UserError, match="has no sound"):
        check_sounds([clip("1")], [np.zeros(100, np.float32)])


# --- metrics and calibration ---------------------------------------------------------------


def test_uar_weights_every_label_equally() -> None:
    truth, predicted = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 0, 0])
    assert uar(truth, predicted, 2) == 0.5
    assert uar(truth, truth, 3) == 1.0


def test_ece_of_calibrated_and_of_overconfident_probabilities() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 20000)
    right = rng.random(20000) < confidence
    assert ece(right, confidence) < 0.015
    assert ece(right, np.minimum(1, confidence + 0.2)) > 0.1


def test_the_error_rate_falls_with_the_coverage() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 5000)
    right = rng.random(5000) < confidence
    coverage, risk, _ = risk_coverage(right, confidence)
    assert coverage[-1] == 1.0
    assert risk[-1] == pytest.approx(1 - right.mean())
    assert risk_at(right, confidence, 0.7) < risk[-1] - 0.05
    threshold = threshold_at(right, confidence, 0.7)
    assert np.mean(confidence >= threshold) == pytest.approx(0.7, abs=0.01)


def test_figures_have_exactly_the_promised_keys() -> None:
    probabilities = np.eye(2)[[0, 1, 1, 0]] * 0.8 + 0.1
    found = figures(np.array([0, 1, 0, 0]), probabilities, np.array([1, 1, 0, 1], bool), 2)
    assert set(found) == {"uar", "uar_ci", "accuracy", "ece", "coverage", "confusion", "n"}
    assert found["confusion"] == [[2, 1], [0, 1]]
    assert found["uar"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["coverage"] == 0.75
    low, high = found["uar_ci"]
    assert low <= found["uar"] <= high


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((4000, 3)) * 2
    odds = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(3, p=p) for p in odds])
    overconfident = odds**3 / (odds**3).sum(axis=1, keepdims=True)
    even = np.ones(4000)
    found = fit_temperature(overconfident, truth, even)
    assert found == pytest.approx(3.0, rel=0.1)
    assert nll(overconfident, truth, even, found) < nll(overconfident, truth, even, 1.0)


def test_a_temperature_that_grows_with_the_distance_is_found() -> None:
    rng = np.random.default_rng(0)
    distance = rng.uniform(0.5, 4.0, 8000)
    scores = rng.standard_normal((8000, 3)) * 2
    odds = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(3, p=p) for p in odds])
    wanted = Calibration(temperature=2.0, distance=2.0)
    factors = np.array([wanted.temperature * wanted.growth(d) for d in distance])
    given = np.exp(scores * factors[:, np.newaxis])
    given /= given.sum(axis=1, keepdims=True)
    corpora = np.where(distance < 2.0, "near", "far")
    even = np.ones(8000)
    temperature, growth = fit_distance(given, distance, truth, even, corpora)
    assert temperature == pytest.approx(2.0, rel=0.2)
    assert 1.0 < growth < 6.0
    to = Calibration(temperature=temperature, distance=growth)
    tuned = np.log(given) / np.array([[to.temperature * to.growth(d)] for d in distance])
    tuned = np.exp(tuned) / np.exp(tuned).sum(axis=1, keepdims=True)
    assert confidence_gap(tuned, truth, even, corpora) < 0.02
    assert confidence_gap(given, truth, even, corpora) > 0.1
    assert fit_gap(given, truth, even, corpora) > 2.0


# --- examples ------------------------------------------------------------------------------


def speech_like(seconds: float = 1.5) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    return (0.1 * tone * np.clip(np.sin(2 * np.pi * 3 * t), 0, 1)).astype(np.float32)


@given(st.integers(0, 2**32 - 1))
def test_augmented_speech_is_16_bit_in_range_and_seeded(seed: int) -> None:
    clean = speech_like()
    speech = np.repeat(active(clean, RATE), RATE // 50)
    odds = Odds(speed=1.0, pitch=0.0, room=1.0, band=0.5, noise=1.0, overdrive=0.3)
    x, mask = augment(clean, speech, RATE, np.random.default_rng(seed), odds)
    again, _ = augment(clean, speech, RATE, np.random.default_rng(seed), odds)
    assert np.array_equal(x, again)
    assert x.dtype == np.float32
    assert len(x) == len(mask)
    assert x.min() >= -1
    assert x.max() <= 32767 / 32768
    assert np.array_equal(x, quantize(x.astype(np.float64)))
    assert np.count_nonzero(mask) > 0.8 * np.count_nonzero(speech) / 1.12


@given(st.integers(0, 2**32 - 1))
def test_a_crop_is_a_short_piece_with_speech(seed: int) -> None:
    word = speech_like(0.7)
    clean = np.concatenate([np.zeros(RATE), word, np.zeros(2 * RATE)]).astype(np.float32)
    speech = np.repeat(active(clean, RATE), RATE // 50)
    crop, mask = crop_speech(clean, speech, RATE, np.random.default_rng(seed))
    assert 0.5 * RATE <= len(crop) <= 1.2 * RATE
    assert len(mask) == len(crop)
    most = min(len(crop), int(np.count_nonzero(speech)))
    assert np.count_nonzero(mask) >= 0.5 * most
    assert crop[0] == crop[-1] == 0.0
    again, _ = crop_speech(clean, speech, RATE, np.random.default_rng(seed))
    assert np.array_equal(crop, again)
    short, _ = crop_speech(word[: RATE // 3], speech, RATE, np.random.default_rng(seed))
    assert np.array_equal(short, word[: RATE // 3])


def test_levels_spread_over_40_db() -> None:
    clean = speech_like()
    speech = np.repeat(active(clean, RATE), RATE // 50)
    quiet = Odds(speed=0, pitch=0, room=0, band=0, noise=0, overdrive=0)
    levels = [
        speech_dbfs(augment(clean, speech, RATE, np.random.default_rng(i), quiet)[0])
        for i in range(80)
    ]
    assert max(levels) - min(levels) > 35


def windows(n: int = 6, low: float = -60.0) -> np.ndarray:
    """Log-mel windows relative to their maximum, (n, 10, 24)."""
    x = np.random.default_rng(1).uniform(low, 0.0, (n, 10, 24)).astype(np.float32)
    return np.asarray(x - x.max(axis=(1, 2), keepdims=True))


@given(st.integers(0, 99), st.booleans())
def test_a_frequency_response_is_the_same_in_every_frame(seed: int, relative: bool) -> None:
    x = windows(low=-20.0)
    tilted = tilt_spectrogram(x, 3.0, np.random.default_rng(seed), relative=relative)
    response = tilted - x
    np.testing.assert_allclose(response, np.broadcast_to(response[:, :1], x.shape), atol=1e-4)
    assert np.abs(np.diff(response, axis=2)).max() > 0.01
    if relative:
        np.testing.assert_allclose(tilted.max(axis=(1, 2)), 0.0, atol=1e-5)


@given(st.integers(0, 99))
def test_an_overlaid_sound_adds_power_and_stays_below_the_speech(seed: int) -> None:
    x, noise = windows(), np.asarray(windows()[::-1] - 7.0, np.float32)
    mixed = overlay_spectrogram(x, noise, np.random.default_rng(seed), relative=False)
    assert (mixed >= x - 1e-4).all()
    assert mixed.max() <= 10 * np.log10(2) + 1e-4
    assert (mixed > x + 1.0).any()
    relative = overlay_spectrogram(x, noise, np.random.default_rng(seed), relative=True)
    assert relative.max(axis=(1, 2)) == pytest.approx(0.0, abs=1e-5)
    assert relative.min() >= -80.0


def test_the_teacher_of_a_clip_was_not_trained_on_its_speaker() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"s{i}" for i in range(10)], 12)
    truth = np.tile([0, 1, 2, -1], 30)
    corpora = np.full(120, "A")
    x = (np.eye(4)[truth] + 0.5 * rng.standard_normal((120, 4))).astype(np.float32)
    train = np.flatnonzero(speakers != "s9")
    found = soft_labels(x, truth, corpora, speakers, train, 3)
    known = (truth >= 0) & (speakers != "s9")
    assert np.isfinite(found[known]).all()
    assert np.isnan(found[~known]).all()
    assert (found[known].argmax(axis=1) == truth[known]).mean() > 0.7
    wrong = np.where((speakers == "s3") & (truth >= 0), (truth + 1) % 3, truth)
    other = soft_labels(x, wrong, corpora, speakers, train, 3)
    mine = known & (speakers == "s3")
    np.testing.assert_array_equal(found[mine], other[mine])
    assert not np.array_equal(found[known], other[known])


def test_webrtc_detects_a_voice_only_in_the_windows_that_hold_one() -> None:
    pytest.importorskip("webrtcvad")
    silence = 1e-4 * np.random.default_rng(0).standard_normal(2 * RATE)
    found = voiced_share(
        np.concatenate([silence, speech_like(2.0)]).astype(np.float32), FeatureSpec()
    )
    assert len(found) == 7
    assert (found[1:3] < 0.2).all()
    assert found[-1] > 0.4
    outputs = np.ones((2, 3), np.float32)
    changed = replace_speech_output(outputs, found[:3], ["speech", "silence", "speech"])
    assert changed[:, -1] == pytest.approx(found[[0, 2]])
    assert (changed[:, :2] == 1).all()
    assert (outputs == 1).all()


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 99))
def test_streaming_statistics_equal_those_of_the_whole(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(50, 3, (n, 4)) for n in sizes]
    statistics = FeatureStatistics(4)
    for part in parts:
        statistics.add(part)
    mean, std = statistics.result()
    whole = np.concatenate(parts)
    if len(whole):
        np.testing.assert_allclose(mean, whole.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(std, whole.std(axis=0), rtol=1e-4, atol=1e-6)


def test_the_mix_is_seeded_and_its_parts_cover_it(tmp_path: Path) -> None:
    sf.write(tmp_path / "song.wav", speech_like(4.0), RATE)
    one, parts = mix(RATE, 300.0, 5, [tmp_path / "song.wav"])
    other, _ = mix(RATE, 300.0, 5, [tmp_path / "song.wav"])
    assert np.array_equal(one, other)
    assert len(one) == 300 * RATE
    assert parts[0].start == 0
    assert parts[-1].end == len(one)
    assert all(a.end == b.start for a, b in itertools.pairwise(parts))
    assert {"recorded"} < {p.kind for p in parts}
    for part in parts:
        if part.kind == "silence":
            assert not one[part.start : part.end].any()


# --- existing models -----------------------------------------------------------------------


def test_the_layout_follows_from_shape_and_spec() -> None:
    spec = FeatureSpec(window_s=1.0, frames=180, n_mfcc=40, n_mels=56)
    assert (spec.dims, spec.n_frames) == (108, 180)
    assert layout_for((108, 180), spec) == "dims,frames"
    assert layout_for((None, 108), spec) == "frames,dims"
    assert layout_for((180, 108, 1), spec) == "frames,dims,1"
    assert layout_for((108,), spec) == "dims"
    with pytest.raises(UserError, match="the spec gives 180 frames of 108 dims"):
        layout_for((108, 90), spec)


def test_no_row_of_explore_has_a_comma_in_its_name() -> None:
    from speech_emotion.train.evaluation.explore import ROWS

    assert not [name for name in ROWS if "," in name]  # --rows separates names by commas
