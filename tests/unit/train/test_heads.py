"""Heads on window statistics: average over corpora, relative scores, the graph, and teaching."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.train.__main__ import main
from speech_emotion.train.bundle.whisper_bundle import baseline_of
from speech_emotion.train.bundle.whisper_card import renderings_text
from speech_emotion.train.data.clips import Clip
from speech_emotion.train.data.splits import leave_corpus_out, speaker_folds
from speech_emotion.train.evaluation.crossval import parameter_bundle
from speech_emotion.train.evaluation.head_robustness import CLEAN, sweep, sweep_markdown
from speech_emotion.train.evaluation.held_out import corpus_heads, left_out, speaker_heads
from speech_emotion.train.evaluation.output_files import write_outputs
from speech_emotion.train.evaluation.robustness import SWEEP_SHARE, sweep_clips
from speech_emotion.train.model.teacher_file import read_teacher_file, write_teacher_file
from speech_emotion.train.model.whisper import window_statistics
from speech_emotion.train.model.whisper.discriminant import moments, moments_of, solve, standard
from speech_emotion.train.model.whisper.graph import BANDS, Head, blocks
from speech_emotion.train.model.whisper.graph import spec as whisper_spec
from speech_emotion.train.model.whisper.heads import (
    LABELS,
    NEUTRAL,
    HeadRecipe,
    HeadTrainingSet,
    fit_head,
    sum_windows,
    weighted_targets,
)
from speech_emotion.train.model.whisper.relative import subtract_usual_sounds, usual_sounds
from speech_emotion.train.model.whisper.teaching import teach
from speech_emotion.train.model.whisper.window_statistics import CROP, WindowStatistics

STATISTICS = ("melmean",)
EMOTIONS = np.eye(len(LABELS), BANDS, dtype=np.float32) * 2.0


def training_set(corpora: int = 4, offset: float = 3.0) -> HeadTrainingSet:
    """Voices differ by more than emotions, along a column that also separates two labels."""
    rng = np.random.default_rng(0)
    columns = max(block.stop for block in blocks().values())
    at = slice(blocks()["melmean"].start, blocks()["melmean"].stop)
    clips, rows = [], []
    for c in range(corpora):
        for s in range(10):
            voice = np.zeros(BANDS, np.float32)
            voice[:4] = rng.normal(0.0, offset, 4)
            for k in range(40):
                label = LABELS[k % len(LABELS)]
                name = f"{c}-{s}-{k}"
                clips.append(Clip(Path(f"{name}.wav"), f"C{c}", f"C{c}_{s}", "", label, name))
                x = np.zeros(columns, np.float32)
                x[at] = rng.standard_normal(BANDS) * 0.5 + EMOTIONS[k % len(LABELS)] + voice
                rows.append(x)
    n = len(clips)
    windows = WindowStatistics(
        np.array(rows, np.float16), np.arange(n, dtype=np.int32), np.zeros(n, np.float32)
    )
    return HeadTrainingSet(clips, [windows], np.zeros((0, columns), np.float16), {})


def recipe(**values: object) -> HeadRecipe:
    chosen = {"statistics": STATISTICS, "copies": 0, "ridge": 0.1, **values}
    return HeadRecipe(**chosen)  # type: ignore[arg-type]


def right(scores: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    return float((scores.argmax(axis=1) == truth).mean())


def test_scores_do_not_depend_on_the_scale_of_the_columns() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=500)
    x = (rng.standard_normal((500, 5)) + 2 * np.eye(3, 5)[truth]).astype(np.float32)
    scale, shift = np.array([1.0, 10.0, 0.1, 3.0, 1.0], np.float32), np.float32(2.0)
    found = []
    for values in (x, x * scale + shift):
        parts = [moments(values, np.eye(3, dtype=np.float32)[truth], truth)]
        mean, std = standard(parts)
        solved = solve(parts, spread=1.0, ridge=1.0, deviation=std, centre=mean)
        found.append(solved.scores(values))
    np.testing.assert_allclose(found[0], found[1], atol=2e-2)


def test_simulated_recordings_and_crops_have_their_weights() -> None:
    soft = np.array([[1, 0], [0.5, 0.5], [0, 1], [1, 0], [1, 0], [0.2, 0.8]], np.float32)
    sizes = [3, 2, 1]
    found = weighted_targets(soft, sizes, HeadRecipe(copies=1, recordings=0.25, crops=0.5))
    np.testing.assert_allclose(found[:3], soft[:3])
    np.testing.assert_allclose(found[3:5].sum(axis=0), [0.25 * 1.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(found[5], [0.5 * 1.5, 0.5 * 1.5], atol=1e-6)
    two = weighted_targets(soft, sizes, HeadRecipe(copies=2, recordings=0.25))
    np.testing.assert_allclose(two[3:].sum(axis=0), [0.25 * 1.5] * 2, atol=1e-6)
    np.testing.assert_allclose(weighted_targets(soft, sizes, HeadRecipe(copies=2)), soft)


def test_a_card_names_the_weights_of_recordings_and_crops() -> None:
    assert renderings_text(HeadRecipe()) == "clean and in 1 simulated recording"
    weighted = HeadRecipe(copies=2, recordings=0.25, crops=0.5)
    assert renderings_text(weighted) == (
        "clean and in 2 simulated recordings (weight 0.25), "
        "and cropped to a word or two (weight 0.5)"
    )


def test_a_crop_is_one_window_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = whisper_spec()
    seconds = np.arange(3 * spec.sample_rate) / spec.sample_rate
    tone = sum(np.sin(2 * np.pi * 140 * k * seconds) / k for k in range(1, 12))
    voice = (0.1 * tone * (np.sin(2 * np.pi * 3 * seconds) > -0.5)).astype(np.float32)
    silence = np.zeros(spec.sample_rate, np.float32)
    whole = np.concatenate([silence, voice, silence])
    monkeypatch.setattr(window_statistics, "load", lambda *_: whole)
    monkeypatch.setattr(window_statistics, "_spec", spec, raising=False)
    gate = SimpleNamespace(reset=lambda: None, step=lambda _: True)
    monkeypatch.setattr(window_statistics, "_gate", gate, raising=False)
    monkeypatch.setattr(window_statistics, "_features", lambda window: window)
    monkeypatch.setattr(window_statistics, "_encode", np.array)
    clip = Clip(Path("a.wav"), "C", "s", "", "sad", "a")
    lengths = []
    for seed in range(20):
        x, speech_s = window_statistics._statistics((clip, CROP, seed))
        assert x.shape == (1, spec.window)
        loud = np.flatnonzero(np.abs(x[0]) > 0.05)
        assert 0.3 < (loud[-1] - loud[0]) / spec.sample_rate <= 1.2
        assert 0.3 < speech_s[0] <= 1.2
        lengths.append(round(float(speech_s[0]), 1))
    assert len(set(lengths)) > 3
    again, _ = window_statistics._statistics((clip, CROP, seed))
    assert np.array_equal(x, again)
    recorded, speech_s = window_statistics._statistics((clip, 1, 0))
    assert len(recorded) == window_statistics.WINDOWS_PER_COPY
    assert speech_s.max() > 1.3


def test_a_recipe_with_crops_sums_them_with_their_weight() -> None:
    known = training_set()
    clean = known.renderings[0]
    far = dataclasses.replace(clean, x=(clean.x + np.float16(4.0)).astype(np.float16))
    whole = dataclasses.replace(known, renderings=[clean, far, far])

    def mean(**values: object) -> float:
        chosen = recipe(copies=1, **values)
        sums = sum_windows(whole, chosen, 2, 0)
        part = moments_of(sums.sums["C0", 0] + sums.sums["C0", 1])
        back = part.means * sums.scale + sums.shift
        return float(back.mean() - clean.x[:400, sums.columns].astype(np.float32).mean())

    assert recipe(copies=1, crops=0.5).renderings == (0, 1, CROP)
    assert mean(recordings=0.0) == pytest.approx(0.0, abs=0.01)
    assert mean(recordings=1.0) == pytest.approx(2.0, abs=0.01)
    assert mean(recordings=0.0, crops=1.0) == pytest.approx(2.0, abs=0.01)
    assert mean(recordings=0.5, crops=0.5) == pytest.approx(2.0, abs=0.01)
    assert mean(recordings=0.25) == pytest.approx(0.8, abs=0.01)


def test_an_average_head_is_the_mean_of_the_heads_without_a_corpus() -> None:
    known = training_set()
    sums = sum_windows(known, recipe(average=True), 2, 0)
    single = sum_windows(known, recipe(), 2, 0)
    names = [f"C{c}" for c in range(4)]
    x = known.renderings[0].x[:50, single.columns].astype(np.float32)

    def scores(head: Head) -> NDArray[np.float32]:
        z = (x - head.mean) / head.std
        return np.asarray(z @ head.weight + head.bias)

    parts = [fit_head(single, [n for n in names if n != left], [0, 1]) for left in names]
    wanted = np.mean([scores(head) for head in parts], axis=0)
    np.testing.assert_allclose(scores(fit_head(sums, names, [0, 1])), wanted, atol=2e-2)
    two = fit_head(sums, names[:2], [0, 1])
    np.testing.assert_allclose(scores(two), scores(fit_head(single, names[:2], [0, 1])), atol=1e-4)


def test_relative_scores_know_a_voice_better_than_the_others() -> None:
    known = training_set()
    sums = sum_windows(known, recipe(relative=True), 5, 0)
    names, folds = [f"C{c}" for c in range(4)], [0, 1, 2, 3]
    head = fit_head(sums, names, folds)
    assert head.relative is not None
    unknown = np.flatnonzero(sums.fold == 4)
    outputs = head.outputs(known.renderings[0].x[np.ix_(unknown, sums.columns)])
    assert outputs.shape[1] == 2 * len(LABELS) + 2
    truth, speaker = known.truth[unknown], known.speaker[unknown]
    relative = outputs[:, len(LABELS) + 2 :].copy()
    for name in np.unique(speaker):
        rows = speaker == name
        weight = np.where(truth[rows] == NEUTRAL, 6.0, 1.0)
        relative[rows] -= np.average(relative[rows], axis=0, weights=weight)
    warm = right(relative + head.relative.bias, truth)
    assert warm > right(outputs[:, : len(LABELS)], truth) + 0.1
    assert warm > 0.85


def test_the_prior_is_the_mean_over_mostly_neutral_speech() -> None:
    known = training_set()
    sums = sum_windows(known, recipe(relative=True), 2, 0)
    head = fit_head(sums, [f"C{c}" for c in range(4)], [0, 1])
    assert head.relative is not None
    outputs = head.outputs(known.renderings[0].x[:, sums.columns])[:, len(LABELS) + 2 :]
    share = np.where(known.truth == NEUTRAL, 0.65, 0.35 / 3)
    wanted = np.average(outputs, axis=0, weights=share)
    np.testing.assert_allclose(head.relative.prior, wanted, atol=0.05)
    baseline = baseline_of(head, {"trust": 0.3})
    assert baseline is not None
    assert baseline.trust == 0.3
    with pytest.raises(UserError, match=r"baseline\.most is not a key"):
        baseline_of(head, {"most": 1.0})
    np.testing.assert_allclose(baseline.prior, head.relative.prior, atol=1e-4)
    np.testing.assert_allclose(baseline.bias, head.relative.bias, atol=1e-4)


def test_usual_sounds_are_mostly_neutral() -> None:
    rng = np.random.default_rng(0)
    neutral = np.arange(40) < 10
    x = np.where(neutral, 0.0, 1.0).astype(np.float32)[:, np.newaxis]
    means = [usual_sounds(x, np.ones(40), neutral, rng) for _ in range(100)]
    assert 0.25 < float(np.mean(means)) < 0.45
    alone = usual_sounds(x[10:], np.ones(30), neutral[10:], rng)
    np.testing.assert_allclose(alone, 1.0)


def test_a_window_is_compared_with_its_own_speaker() -> None:
    rng = np.random.default_rng(0)
    speaker = np.array(["a"] * 8 + ["b"] * 8)
    clip = np.repeat(np.arange(16), 2)
    x = np.where(speaker[clip] == "a", 5.0, -3.0).astype(np.float32)[:, np.newaxis]
    subtract_usual_sounds(x, clip, speaker, np.ones(16, bool), rng)
    np.testing.assert_allclose(x, 0.0, atol=1e-5)


def test_the_sweep_compares_changed_clips_with_the_same_clips_unchanged() -> None:
    known = training_set(offset=0.5)
    sums = sum_windows(known, recipe(average=True, relative=True), 2, 0)
    chosen = sweep_clips(np.arange(len(known.clips)), seed=0)
    clean = known.renderings[0]
    rows = np.isin(clean.clip, chosen)
    assert rows.sum() == len(known.clips) // SWEEP_SHARE
    same = WindowStatistics(clean.x[rows], clean.clip[rows], clean.speech[rows])
    rng = np.random.default_rng(0)
    noisy = (same.x + rng.normal(0.0, 3.0, same.x.shape)).astype(np.float16)
    renderings = {CLEAN: same, "noise": dataclasses.replace(same, x=noisy)}
    bundle = parameter_bundle(whisper_spec(), LABELS, speech_output=True, distance_output=True)
    found = sweep(sums, renderings, bundle)
    for rates in found.values():
        assert rates[CLEAN]["uar"] > 0.9
        assert rates["noise"]["uar"] < rates[CLEAN]["uar"] - 0.1
        assert rates["noise"]["ece"] > rates[CLEAN]["ece"]
    table = sweep_markdown(found).splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [CLEAN, "noise"]
    assert table[2].count("+0.0") == 2


def test_outputs_of_clips_held_out_are_written(tmp_path: Path) -> None:
    known = training_set(corpora=3)
    sums = sum_windows(known, recipe(relative=True, average=True), 2, 0)
    for heads in (corpus_heads(sums), speaker_heads(sums)):
        held_out = left_out(sums.training_set, heads)
        write_outputs(tmp_path / "o.npz", known, held_out)
        with np.load(tmp_path / "o.npz") as found:
            n = len(known.clips)
            assert found["labels"].tolist() == list(LABELS)
            assert found["clip"].tolist() == list(range(n))
            assert found["label"].tolist() == known.truth.tolist()
            for key in ("cold", "relative", "prior", "bias"):
                assert found[key].shape == (n, len(LABELS))
            np.testing.assert_allclose(found["cold"].sum(axis=1), 1.0, atol=1e-4)


def test_the_graph_gives_the_outputs_of_the_head() -> None:
    pytest.importorskip("tensorflow")
    from speech_emotion.train.model.whisper.graph import emotion_graph, pooled_graph

    known = training_set()
    sums = sum_windows(known, recipe(relative=True), 2, 0)
    head = fit_head(sums, ["C0", "C1", "C2", "C3"], [0, 1])
    mel = np.random.default_rng(1).normal(0.0, 1.0, (1, 300, BANDS)).astype(np.float32)
    pooled = np.asarray(pooled_graph({}, 300, BANDS, STATISTICS)(mel))
    found = np.asarray(emotion_graph({}, head, 300, BANDS)(mel))
    np.testing.assert_allclose(found, head.outputs(pooled), rtol=1e-3, atol=1e-3)


def relabelled(known: HeadTrainingSet, speaker: str) -> HeadTrainingSet:
    """The same clips, the emotions of one speaker exchanged."""
    other = dict(zip(LABELS, [*LABELS[1:], LABELS[0]], strict=True))
    clips = [
        dataclasses.replace(c, emotion=other[c.emotion]) if c.speaker == speaker else c
        for c in known.clips
    ]
    return dataclasses.replace(known, clips=clips)


def test_a_teacher_has_seen_neither_its_pupils_speaker_nor_what_the_pupil_is_judged_on() -> None:
    known = training_set(corpora=3, offset=0.5)
    found = teach(known, recipe(), 5, 0)
    splits = [*speaker_folds(known.clips, 5), *leave_corpus_out(known.clips)]
    assert set(found) == {"all", *(split.name for split in splits)}
    assert np.isfinite(found["all"]).all()
    np.testing.assert_allclose(found["all"].sum(axis=1), 1.0, atol=1e-4)
    assert right(found["all"], known.truth) > 0.5
    changed = teach(relabelled(known, "C1_3"), recipe(), 5, 0)
    mine = known.speaker == "C1_3"
    np.testing.assert_array_equal(found["all"][mine], changed["all"][mine])
    assert not np.array_equal(found["all"], changed["all"])
    for split in splits:
        one, other = found[split.name], changed[split.name]
        assert np.isfinite(one[split.train]).all()
        assert np.isnan(one[split.test]).all()
        judged = mine[split.test].any()
        assert np.array_equal(one[split.train], other[split.train]) == judged


def test_a_teacher_needs_three_groups_of_speakers() -> None:
    with pytest.raises(UserError, match="--folds must be at least 3"):
        teach(training_set(corpora=2), recipe(), 2, 0)


def test_a_file_of_a_teacher_fits_the_split_or_is_refused(tmp_path: Path) -> None:
    known = training_set(corpora=2)
    names = [c.name for c in known.clips]
    path = tmp_path / "new" / "teacher.npz"
    write_teacher_file(path, names, LABELS, teach(known, recipe(), 5, 0))
    file = read_teacher_file(path)
    split = leave_corpus_out(known.clips)[0]
    # The pupil's clips are in another order, and one of them has no label.
    order = np.random.default_rng(0).permutation(len(names))
    shuffled = ["unlabelled", *(names[i] for i in order)]
    inside = np.isin(order, split.train)
    train, labelled = np.append(0, 1 + np.flatnonzero(inside)), 1 + np.arange(len(names))
    soft = file.soft_labels(split.name, shuffled, LABELS, labelled, train)
    np.testing.assert_array_equal(soft[1:], file.splits[split.name][order])
    assert np.isnan(soft[0]).all()
    for arguments, cause in (
        (("random0", shuffled, LABELS, labelled, train), "no split random0"),
        ((split.name, shuffled, LABELS[:3], labelled, train), "its labels are"),
        ((split.name, ["x"] * len(shuffled), LABELS, labelled, train), "lacks the clip x"),
        ((split.name, shuffled, LABELS, labelled, train[:-1]), "not of both"),
        ((split.name, shuffled, LABELS, labelled, np.append(train, labelled)), "not of both"),
    ):
        with pytest.raises(UserError, match=cause):
            file.soft_labels(*arguments)
    (tmp_path / "other.npz").write_text("no archive")
    for wrong in ("other.npz", "none.npz"):
        with pytest.raises(UserError, match="train whisper teach"):
            read_teacher_file(tmp_path / wrong)


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (("fit", "--figures", "x.json", "--name=x", "--out=x"), "remove --figures"),
        (("crossval", "--sweep", "--json=x"), "remove them"),
    ],
)
def test_flags_of_the_other_protocol_are_refused(
    flags: tuple[str, ...], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--left-out", "corpora"]) == 2
    assert cause in capsys.readouterr().err
