"""Adapt a bundle to labels of its users: fit, proof, replacement, rollback, figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from speech_emotion.common.bundle.manifest import MANIFEST, load_bundle
from speech_emotion.common.bundle.personal import Personal
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.infer.decision import personalize
from speech_emotion.train.__main__ import main
from speech_emotion.train.evaluation.streams.window_outputs import parameters, read_outputs
from speech_emotion.train.personal import figures
from speech_emotion.train.personal.adaptation import adapt_bundle, roll_back, versions
from speech_emotion.train.personal.fit import (
    FOLDS,
    Examples,
    Map,
    Prior,
    adapt,
    compare,
    divide,
    fit,
    losses,
    predict_kept_back,
    softmax,
    weights,
)
from speech_emotion.train.personal.labels import MOST, read_labels
from tests.support.bundles import change
from tests.support.personal import LABELS, adapted, examples, lines, write
from tests.support.pipelines import ROOT, command, offline
from tests.support.window_outputs import write_outputs

RELATIVE = ROOT / "tests" / "data" / "models" / "relative"
SPEECH = sorted((ROOT / "tests" / "data").glob("speech_*.flac"))
NUMBERS = st.floats(-1.0, 1.0)


def test_the_fit_is_the_minimum_that_another_optimizer_finds() -> None:
    given, prior = examples(40), Prior(0.5, 0.3, 0.1)
    weight = weights(given.truth)

    def loss(numbers: np.ndarray) -> float:
        bias, scale, matrix = numbers[:4], numbers[4], numbers[5:].reshape(4, 4)
        mapped = softmax(given.scores @ ((1.0 + scale) * np.eye(4) + matrix).T + bias)
        penalty = (bias**2).sum() / prior.bias**2 + scale**2 / prior.scale**2
        penalty += (matrix**2).sum() / prior.matrix**2
        return float(weight @ losses(mapped, given.truth) + 0.5 * penalty)

    found = minimize(loss, np.zeros(21), method="BFGS", options={"gtol": 1e-6}).x
    chosen = fit(given, prior)
    assert chosen.bias == pytest.approx(found[:4], abs=1e-4)
    expected = (1.0 + found[4]) * np.eye(4) + found[5:].reshape(4, 4)
    assert chosen.matrix == pytest.approx(expected, abs=1e-4)


def test_a_shift_is_learnt_and_holds_on_new_examples() -> None:
    new = examples(2000, seed=9)
    before = Map.identity(4).probabilities(new.scores)
    gains = []
    for count in (20, 100, 500):
        after = adapt(examples(count)).probabilities(new.scores)
        gains.append(compare(new.truth, before, [after]))
    assert all(one.better for one in gains)
    assert gains[0].after > gains[1].after > gains[2].after
    assert gains[2].uar_after > gains[2].uar_before + 0.15


@pytest.mark.slow
def test_what_cannot_be_learnt_is_seldom_called_better() -> None:
    """Probabilities that are right as they are: a map can only lose."""
    called = []
    for seed in range(20):
        given = examples(60, seed)
        scores = given.scores + np.array([0.0, 0.0, 0.0, -2.0])
        honest = softmax(1.5 * scores)
        chance = np.random.default_rng(seed)
        truth = np.array([chance.choice(4, p=p) for p in honest])
        right = Examples(1.5 * (scores - scores.mean(axis=1, keepdims=True)), truth)
        called.append(compare(truth, honest, predict_kept_back(right)).better)
    assert sum(called) <= 2


def test_labels_are_kept_back_from_the_maps_that_judge_them() -> None:
    given = examples(30)
    part = divide(given.truth, 1000)
    assert sorted(set(part)) == list(range(FOLDS))
    changed = given.truth.copy()
    changed[part == 0] = (changed[part == 0] + 1) % 4  # the labels of the first part alone
    (first, *_), (second, *_) = (
        predict_kept_back(Examples(given.scores, truth)) for truth in (given.truth, given.truth)
    )
    assert first.tolist() == second.tolist()  # the same labels give the same maps
    rest = np.flatnonzero(part != 0)
    same = adapt(Examples(given.scores[rest], changed[rest]), seed=0)
    assert first[part == 0] == pytest.approx(same.probabilities(given.scores[part == 0]))


@given(
    st.lists(NUMBERS, min_size=16, max_size=16),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.lists(st.floats(-4.0, 4.0), min_size=4, max_size=4),
)
def test_a_map_is_undone_and_is_the_one_that_infer_applies(
    matrix: list[float], bias: list[float], scores: list[float]
) -> None:
    chosen = Map(2.0 * np.eye(4) + 0.4 * np.array(matrix).reshape(4, 4), np.array(bias))
    s = np.array(scores) - np.mean(scores)
    mapped = chosen.probabilities(s)
    assert chosen.undo(mapped) == pytest.approx(s, abs=1e-6)
    rows = tuple(tuple(row) for row in chosen.matrix.tolist())
    live = personalize(softmax(s), Personal(rows, tuple(bias), "manifest.toml"))
    assert live == pytest.approx(mapped, abs=1e-9)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("[1]", "is not a JSON object; write one object a line"),
        ("{", "is not a JSON object; write one object a line"),
        ('{"label": "bored"}', "label = 'bored' must be one of angry, happy, neutral, sad"),
        ('{"label": ["sad"]}', "label = ['sad'] must be one of angry, happy, neutral, sad"),
        ('{"label": "sad"}', "needs probabilities and bundle, as an utterance message has them, "),
        ('{"label": "sad", "clip": 3}', "clip = 3 must be the path of a sound file"),
        (
            '{"label": "sad", "probabilities": {"sad": 1.0}, "bundle": "b@1"}',
            "probabilities must be one number of 0 to 1 for each of angry, happy, neutral, sad, ",
        ),
        (
            '{"label": "sad", "bundle": "b@1", "probabilities": '
            '{"angry": NaN, "happy": 0.5, "neutral": 0.5, "sad": 0}}',
            "probabilities must be one number of 0 to 1 for each of angry, happy, neutral, sad, ",
        ),
        (
            '{"label": "sad", "probabilities": {"angry": 0, "happy": 0, "neutral": 0, "sad": 1}}',
            "has probabilities but no bundle; copy the whole utterance message",
        ),
    ],
)
def test_a_wrong_line_is_one_line_that_names_it(tmp_path: Path, line: str, cause: str) -> None:
    good = json.dumps(lines(examples(1), "b@1")[0])
    file = tmp_path / "labels.jsonl"
    file.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(UserError) as caught:
        read_labels(file, LABELS)
    assert str(caught.value).startswith(f"{file}:3: {cause}")


def test_the_last_line_about_an_utterance_counts_and_the_newest_are_used(tmp_path: Path) -> None:
    rows = lines(examples(5), "b@1")
    again = {**rows[0], "label": "happy"}
    recordings = [{**row, "run": "offline", "seq": 0} for row in rows]  # of five recordings
    labels = read_labels(write(tmp_path / "few", [*rows, again, *recordings]), LABELS)
    assert len(labels) == 10
    assert labels[4].truth == LABELS.index("happy")
    many = read_labels(write(tmp_path / "many", lines(examples(MOST + 10), "b@1")), LABELS)
    assert [len(many), many[-1].where] == [MOST, f"{tmp_path / 'many'}:{MOST + 10}"]


def test_adapt_twice_and_roll_back_twice(tmp_path: Path) -> None:
    original = (RELATIVE / MANIFEST).read_bytes()
    first = load_bundle(adapted(tmp_path, RELATIVE))
    assert first.id != load_bundle(RELATIVE).id
    assert (RELATIVE / MANIFEST).read_bytes() == original
    assert first.model.read_bytes() == (RELATIVE / "model.tflite").read_bytes()
    manifest = (first.path / MANIFEST).read_bytes()

    # Other people: labels of both versions; what the adapted bundle has published is undone.
    known = versions(first)
    given = examples(200, seed=3, shift=-1.0)
    rows = lines(given, load_bundle(RELATIVE).id)
    for row, scores in zip(rows[100:], given.scores[100:], strict=True):
        p = known[first.id].probabilities(scores)
        row |= {"bundle": first.id, "probabilities": dict(zip(LABELS, p.tolist(), strict=True))}
    rows[0]["bundle"] = "other@12345678"
    done = adapt_bundle(first.path, write(tmp_path / "more.jsonl", rows))
    assert done.replaced
    assert sum(done.counts.values()) == 199
    assert done.unusable == {"another bundle": 1}
    assert done.present is not None
    assert list(versions(done.bundle)) == [done.bundle.id, first.id, load_bundle(RELATIVE).id]
    chosen, direct = versions(done.bundle)[done.bundle.id], adapt(given.of(np.arange(1, 200)))
    assert chosen.bias == pytest.approx(direct.bias, abs=0.02)

    assert roll_back(first.path).id == first.id
    assert (first.path / MANIFEST).read_bytes() == manifest
    assert roll_back(first.path).id == load_bundle(RELATIVE).id
    assert (first.path / MANIFEST).read_bytes() == original
    with pytest.raises(UserError, match="has no map of labels; there is nothing to roll back"):
        roll_back(first.path)


def test_a_map_that_is_not_better_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = examples(60, noise=3.0, shift=0.0)
    unrelated = Examples(given.scores, np.random.default_rng(1).permutation(given.truth))
    rows = lines(unrelated, load_bundle(RELATIVE).id)
    for row in rows:  # probabilities that already say that nothing is known
        row["probabilities"] = dict.fromkeys(LABELS, 0.25)
    file, out = write(tmp_path / "labels.jsonl", rows), tmp_path / "out"
    words = ["personal", "--labels", str(file), "--bundle", str(RELATIVE), "--out", str(out)]
    assert main(words) == 0
    assert "not better: nothing is written" in capsys.readouterr().out
    assert not out.exists()


def test_clips_are_analysed_as_by_infer(tmp_path: Path) -> None:
    """Utterances of which only the sound is known, of which some have none that is speech."""
    rows: list[dict[str, Any]] = lines(examples(60), load_bundle(RELATIVE).id)
    samples, rate = soundfile.read(SPEECH[0], dtype="float32")
    soundfile.write(tmp_path / "speech.wav", samples, rate, "FLOAT")
    soundfile.write(tmp_path / "silence.wav", 0 * samples, rate, "FLOAT")
    rows += [{"label": "sad", "clip": f"{name}.wav"} for name in ("speech", "silence")]
    done = adapt_bundle(RELATIVE, write(tmp_path / "labels.jsonl", rows), tmp_path / "out")
    assert sum(done.counts.values()) == 61
    assert done.unusable == {"no speech in the clip": 1}
    # The adapted bundle maps what infer gives for each window.
    before, after = (
        [row["probabilities"] for row in offline(SPEECH[0], folder) if row["kind"] == "result"]
        for folder in (RELATIVE, done.bundle.path)
    )
    assert done.bundle.personal is not None
    assert [b is None for b in before] == [a is None for a in after]
    own = [np.array([*p.values()]) for p in before if p is not None]
    mapped = [[*p.values()] for p in after if p is not None]
    assert mapped == [personalize(p, done.bundle.personal).tolist() for p in own]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--labels", "few"], "has 10 usable labels, needed: 20"),
        (["--labels", "none"], "none: cannot be read (No such file or directory)"),
        (["--labels", "few", "--out", "."], "exists already; to adapt it again: --bundle"),
        (["--rollback"], "has no map of labels; there is nothing to roll back"),
        (["--rollback", "--out", "x"], "--out does not belong to --rollback"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    cause: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "few", lines(examples(10), load_bundle(RELATIVE).id))
    assert main(["personal", "--bundle", str(RELATIVE), *words]) == 2
    error = capsys.readouterr().err
    assert cause in error
    assert error.count("\n") == 1


def test_the_shipped_bundle_is_not_changed_in_place_and_no_extra_is_needed(tmp_path: Path) -> None:
    file = write(tmp_path / "labels.jsonl", lines(examples(40), load_bundle(DEFAULT_BUNDLE).id))
    done = command("train", "personal", "--labels", file)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*is the shipped bundle, .* with --out DIR\n", done.stderr)


@pytest.mark.parametrize(
    ("personal", "cause"),
    [
        ({"bias": [0.0] * 4}, "personal must be a table with the keys matrix, bias, before"),
        (
            {"matrix": [[1.0]], "bias": [0.0] * 4, "before": "stats.npz"},
            "personal.matrix must have 4 rows, one per label",
        ),
        (
            {"matrix": [[1.0] * 4] * 4, "bias": [0, 0, 0, 21.0], "before": "stats.npz"},
            "personal.bias = [0, 0, 0, 21.0] must be one number for each of the 4 labels",
        ),
        (
            {"matrix": [[1.0] * 4] * 4, "bias": [0.0] * 4, "before": "gone.toml"},
            "personal.before = 'gone.toml' must be one of the files",
        ),
    ],
)
def test_a_wrong_map_in_a_manifest_is_one_line(
    tmp_path: Path, personal: dict[str, Any], cause: str
) -> None:
    folder = adapted(tmp_path, RELATIVE)
    change(folder, lambda table: table.update(personal=personal))
    with pytest.raises(UserError, match=re.escape(cause)):
        load_bundle(folder)


@pytest.mark.slow
def test_homes_do_not_judge_what_they_have_heard_and_figures_are_of_the_live_code(
    tmp_path: Path,
) -> None:
    files = [write_outputs(tmp_path, name, seed, twins=False) for seed, name in enumerate("AB")]
    (corpus, _) = read_outputs(files, 0.7)
    homes = list(figures.make_homes(corpus, range(3), 60))
    again = list(figures.make_homes(corpus, range(3), 60))
    assert [h.labelled.tolist() for h in homes] == [h.labelled.tolist() for h in again]
    for home in homes:
        same, others = home.judged
        people = set(corpus.speaker[home.labelled])
        assert len(home.labelled) == 60
        assert not set(home.labelled) & set(same)
        assert people == set(corpus.speaker[same])
        assert not people & set(corpus.speaker[others])
    out = tmp_path / "figures.json"
    assert main(["personal-figures", *map(str, files), "--seeds", "2", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    for mode in ("with a baseline", "without a baseline"):
        rows = found[mode]["the same people"]
        for n in ("20", "50", "100"):
            mean, each = rows[n]["mean"], [rows[n][name] for name in ("A", "B")]
            assert mean["after"]["gain"] == pytest.approx(
                np.mean([one["after"]["uar"] - one["before"]["uar"] for one in each])
            )
            low, high = mean["always"]["gain_ci"]
            assert low <= mean["always"]["gain"] <= high
    given = parameters(None, [])
    (home,) = figures.make_homes(corpus, [0], 100)
    tally = figures.measure(corpus, [home], given, baseline=False)["the same people"][50]
    chosen = adapt_of(corpus, home, 50, tally)
    assert tally.judged["always"][0].probabilities == pytest.approx(chosen)


def adapt_of(corpus: Any, home: Any, n: int, tally: Any) -> np.ndarray:
    """The judged clips with a map by the first n labels, clip by clip as infer does it."""

    def windows(clip: int) -> np.ndarray:
        return softmax(corpus.cold[corpus.clip == clip])

    means = np.array([windows(clip).mean(axis=0) for clip in home.labelled[:n]])
    scores = np.log(means) - np.log(means).mean(axis=1, keepdims=True)
    chosen = adapt(Examples(scores, corpus.truth[home.labelled[:n]]))
    personal = Personal(
        tuple(map(tuple, chosen.matrix.tolist())), tuple(chosen.bias.tolist()), "manifest.toml"
    )
    assert len(tally.judged["always"][0].truth) == len(home.judged[0])
    return np.array(
        [
            np.mean([personalize(p, personal) for p in windows(clip)], axis=0)
            for clip in home.judged[0]
        ]
    )
