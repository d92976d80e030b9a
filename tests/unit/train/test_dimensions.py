"""Arousal: its targets, the head, the figures, and the output that a bundle gets."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import soundfile as sf
from ai_edge_litert import schema_py_generated as schema

from speech_emotion import Pipeline, Utterance
from speech_emotion.common.bundle.manifest import MANIFEST, load_bundle
from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.errors import UserError
from speech_emotion.infer.model import Model
from speech_emotion.train.__main__ import main
from speech_emotion.train.bundle.writer import run_tflite_all
from speech_emotion.train.data.clips import Clip, read_manifest
from speech_emotion.train.data.soft_targets import EMOTIONS, Votes
from speech_emotion.train.dimensions import figures, head
from speech_emotion.train.dimensions.model_file import ModelFile
from speech_emotion.train.dimensions.targets import Targets, targets
from speech_emotion.train.evaluation.evaluate import evaluate, table
from speech_emotion.train.evaluation.metrics import ccc, ccc_interval
from speech_emotion.train.model.whisper import window_statistics
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics
from tests.support.bundles import change, rehash
from tests.support.pipelines import DEMO, ROOT

OPEN = ROOT / "models" / "open"


def clip(corpus: str, stem: str, emotion: str, speaker: str = "1") -> Clip:
    return Clip(Path(f"{stem}.wav"), corpus, f"{corpus}_{speaker}", "", emotion, stem)


def votes(neutral: int, others: int, intensity: float) -> Votes:
    counts = {**dict.fromkeys(EMOTIONS, 0.0), "neutral": float(neutral), "angry": float(others)}
    return Votes(counts, neutral + others, intensity)


def test_targets_come_from_levels_and_ratings_alone() -> None:
    clips = [
        clip("RAVDESS", "03-01-05-01-02-01-12", "angry"),
        clip("RAVDESS", "03-01-05-02-02-01-12", "angry"),
        clip("RAVDESS", "03-01-02-02-02-01-12", "calm"),
        clip("CREMAD", "1001_IEO_ANG_HI", "angry"),
        clip("CREMAD", "1001_DFA_SAD_XX", "sad"),
        clip("CREMAD", "1001_DFA_NEU_XX", "neutral"),
        clip("EMODB", "03a01Fa", "happy"),
    ]
    rated = {
        "1001_IEO_ANG_HI": votes(0, 10, 80.0),
        "1001_DFA_NEU_XX": votes(10, 0, 90.0),  # clearly neutral is not aroused
    }
    found = targets(clips, rated)
    assert [c.corpus for c in found.clips] == ["RAVDESS"] * 3 + ["CREMAD"] * 3
    wanted = [1 / 3, 2 / 3, np.nan, (2 / 3 + 0.8) / 2, np.nan, 0.0]
    np.testing.assert_allclose(found.value, wanted)
    # The acted emotion changes nothing.
    moved = targets([clip("CREMAD", "1001_IEO_ANG_HI", "sad")], rated)
    assert moved.value[0] == found.value[3]


def made(rng: np.random.Generator) -> tuple[Targets, list[WindowStatistics]]:
    """Two corpora; column 0 follows the target, the others differ between the corpora."""
    count, columns = 120, 5
    corpus = np.repeat(["CREMAD", "RAVDESS"], count // 2)
    value = rng.uniform(0.2, 0.8, count)
    level = np.where(rng.random(count) < 0.5, 1 / 3, 2 / 3)
    owner = np.repeat(np.arange(count), 2).astype(np.int32)
    x = rng.normal(size=(len(owner), columns))
    x[:, 0] = 4 * (value[owner] - 0.5) + 0.3 * rng.normal(size=len(owner))
    x[:, 1:] += np.where(corpus[owner] == "CREMAD", 3.0, -3.0)[:, np.newaxis]
    known = Targets(
        [clip(c, str(i), "angry") for i, c in enumerate(corpus)],
        value,
        level,
        corpus,
        np.array([f"{c}_{i % 10}" for i, c in enumerate(corpus)]),
        np.repeat("angry", count),
    )
    return known, [WindowStatistics(x.astype(np.float16), owner, np.zeros(len(owner), np.float32))]


def test_a_head_is_fitted_within_the_corpora_and_judged_on_new_speakers() -> None:
    known, renderings = made(np.random.default_rng(0))
    sums, fold = head.sum_windows(known, renderings, 5, 0)
    by_speaker = {s: set(fold[known.speaker == s]) for s in set(known.speaker)}
    assert all(len(folds) == 1 for folds in by_speaker.values())
    fitted = head.fit([[sums[c, k] for k in range(5)] for c in ("CREMAD", "RAVDESS")], ridge=0.01)
    assert abs(fitted.weight[0]) > 20 * np.abs(fitted.weight[1:]).max()
    study = figures.Study(known, renderings, sums, fold)
    rows = figures.table(known, study.held_out())
    assert [(row["held_out"], row["corpus"]) for row in rows] == [
        ("speakers", "CREMAD"),
        ("speakers", "RAVDESS"),
        ("corpus", "CREMAD"),
        ("corpus", "RAVDESS"),
    ]
    for row in rows:
        assert row["ccc_ci"][0] < row["ccc"] < row["ccc_ci"][1]
        assert row["correlation"] > 0.7
    assert figures.markdown(rows).count("\n") == len(rows) + 1


def test_a_corpus_that_is_not_trained_on_is_evaluated_by_the_final_head() -> None:
    known, renderings = made(np.random.default_rng(0))
    heard, unheard = known.corpus == "CREMAD", known.corpus == "RAVDESS"
    studies = []
    for value in (known.value, np.where(unheard, 0.9, known.value)):
        targets_now = dataclasses.replace(known, value=value)
        sums = head.sum_windows(targets_now, renderings, 5, 0, ["CREMAD"])
        studies.append(figures.Study(targets_now, renderings, *sums))
    study, other = studies
    assert study.corpora == ["CREMAD"]
    # Targets of the other corpus change nothing in the head.
    assert study.final().weight.tobytes() == other.final().weight.tobytes()
    assert study.final().bias == other.final().bias
    speakers, corpus = study.held_out()
    assert np.isnan(speakers.values[0][unheard]).all()
    assert np.isnan(corpus.values[0][heard]).all()
    final = study.values(renderings[0], known.corpus, {"RAVDESS": study.final()})
    np.testing.assert_array_equal(corpus.values[0], np.clip(final, 0.0, 1.0))
    rows = figures.table(known, [speakers, corpus])
    assert [(row["held_out"], row["corpus"], row["clips"]) for row in rows] == [
        ("speakers", "CREMAD", 60),
        ("corpus", "RAVDESS", 60),
    ]
    for row in rows:
        truth = known.value[known.corpus == row["corpus"]]
        assert row["target_mean"] == pytest.approx(truth.mean())
        assert abs(row["mean"] - row["target_mean"]) < 0.3


def test_ccc_is_lins() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=300)
    b = 0.5 * a + 0.3 * rng.normal(size=300) + 0.2
    covariance = np.cov(a, b, bias=True)
    spread = covariance[0, 0] + covariance[1, 1] + (a.mean() - b.mean()) ** 2
    assert ccc(a, b) == pytest.approx(2 * covariance[0, 1] / spread)
    assert [ccc(a, a), ccc(a, -a + 2 * a.mean())] == pytest.approx([1, -1])
    low, high = ccc_interval(a, b, np.arange(300) // 10)
    assert low < ccc(a, b) < high
    assert high - low < 0.2


def test_an_output_is_added_and_the_others_keep_their_bits() -> None:
    content = (OPEN / "model.tflite").read_bytes()
    with np.load(OPEN / "golden.npz") as golden:
        quiet = golden["normalized"].astype(np.float32)
    rng = np.random.default_rng(0)
    windows = np.array([quiet, *(quiet + rng.normal(0, 0.3, quiet.shape) for _ in range(3))])
    windows = windows.astype(np.float32)
    statistics = run_tflite_all(ModelFile(content).statistics(), windows, "frames,dims")
    columns = ModelFile(content).columns
    assert statistics.shape == (4, columns)
    weight = rng.normal(0, 0.01, (columns, 2)).astype(np.float32)
    longer = ModelFile(content).append(weight, [0.25, -1.0])
    before = run_tflite_all(content, windows, "frames,dims")
    after = run_tflite_all(longer, windows, "frames,dims")
    assert after[:, :-2].tobytes() == before.tobytes()
    np.testing.assert_allclose(after[:, -2:], statistics @ weight + [0.25, -1.0], atol=1e-4)
    at = 5  # after four labels and speech
    squared = ModelFile(content).insert_mean_square(slice(10, 20), 2)
    found = run_tflite_all(squared, windows, "frames,dims")
    assert np.delete(found, at, axis=1).tobytes() == before.tobytes()
    wanted = np.square(statistics[:, 10:20]).mean(axis=1)
    np.testing.assert_allclose(found[:, at], wanted, rtol=1e-4)
    with pytest.raises(UserError, match="no pooled statistics"):
        ModelFile((ROOT / "models" / "small" / "model.tflite").read_bytes())


def test_the_caches_of_networks_of_one_size_differ(tmp_path: Path) -> None:
    content = ModelFile((OPEN / "model.tflite").read_bytes()).statistics()
    parsed = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = parsed.subgraphs[0]
    standardize = next(o for o in graph.operators if o.outputs[0] == graph.outputs[0])
    factor = parsed.buffers[graph.tensors[standardize.inputs[1]].buffer].data.tobytes()
    doubled = content.replace(factor, (2 * np.frombuffer(factor, np.float32)).tobytes())
    assert len(doubled) == len(content)
    sf.write(tmp_path / "1.wav", sf.read(DEMO)[0][:16000], 16000)
    one = dataclasses.replace(clip("CREMAD", "1", "angry"), path=tmp_path / "1.wav")
    spec = load_bundle(OPEN).spec
    found = []
    for network in (content, doubled):
        encoder = tmp_path / "encoder.tflite"
        encoder.write_bytes(network)
        found.append(window_statistics.extract([one], spec, encoder, 0, tmp_path).x)
    first, second = found
    np.testing.assert_allclose(second, 2 * first, rtol=0.01, atol=0.01)


def test_open_learned_from_corpora_without_a_non_commercial_clause() -> None:
    made_of = read_toml(OPEN / MANIFEST)["provenance"]
    assert made_of["corpora"] == ["CREMAD", "EMODB"]
    assert made_of["arousal"]["corpora"] == ["CREMAD"]
    assert "--corpora CREMAD" in made_of["arousal"]["command"]
    card = (OPEN / "MODEL_CARD.md").read_text()
    assert "for evaluation only: RAVDESS" in " ".join(card.split())


def without_arousal(folder: Path) -> Path:
    """A copy of `open` as `whisper build` makes it."""
    shutil.copytree(OPEN, folder)
    model = schema.ModelT.InitFromPackedBuf((folder / "model.tflite").read_bytes(), 0)
    graph = model.subgraphs[0]
    *others, last = graph.operators
    last.inputs = last.inputs[:-1]
    graph.operators = [*others[:-3], last]
    output = graph.tensors[graph.outputs[0]]
    output.shape = output.shape - np.array([0, 1], np.int32)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "model.tflite").write_bytes(builder.Output())
    with np.load(folder / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["probabilities"] = arrays["probabilities"][:-1]
    np.savez(folder / "golden.npz", **arrays)
    change(folder, lambda table: table.pop("dimensions"))
    change(folder, lambda table: table["provenance"].pop("arousal"))
    card = (folder / "MODEL_CARD.md").read_text()
    (folder / "MODEL_CARD.md").write_text(card[: card.index("## Arousal")])
    rehash(folder)
    return folder


@pytest.mark.slow
def test_the_command_changes_a_bundle_and_evaluate_measures_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, rate = sf.read(DEMO, dtype="float32")
    names = [f"RAVDESS/03-01-05-0{level}-01-01-0{actor}" for actor in (1, 2) for level in (1, 2)]
    names += [f"CREMAD/100{actor}_IEO_ANG_{level}" for actor in (1, 2) for level in ("LO", "HI")]
    for k, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sf.write(tmp_path / f"{name}.wav", samples[24000 * k : 24000 * k + 48000], rate)
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "corpus", "speaker", "emotion", "arousal"])
        for k, name in enumerate(names):
            corpus, stem = name.split("/")
            speaker = stem[-2:] if corpus == "RAVDESS" else stem[:4]
            out.writerow([f"{name}.wav", corpus, f"{corpus}_{speaker}", "angry", 0.1 * k])
    (tmp_path / "votes.csv").write_text(f"clip,raters,{','.join(EMOTIONS)},mean_intensity\n")
    folder = without_arousal(tmp_path / "bundle")
    plain = Model(load_bundle(folder))
    words = [
        "arousal",
        "--manifest",
        f"{tmp_path}/manifest.csv",
        "--votes",
        f"{tmp_path}/votes.csv",
    ]
    words += ["--bundle", str(folder), "--work", f"{tmp_path}/work", "--copies", "0"]
    assert main([*words, "--corpora", "CREMAD,EMODB"]) == 2
    assert "no clips of EMODB with arousal" in capsys.readouterr().err
    assert main([*words, "--corpora", "CREMAD", "--write"]) == 0
    shown = capsys.readouterr().out
    assert "| CREMAD | its speaker | 4 | 2 |" in shown
    assert "| RAVDESS | the corpus | 4 | 2 |" in shown
    assert shown.count("\n| CREMAD") + shown.count("\n| RAVDESS") == 2
    bundle = load_bundle(folder)
    assert bundle.dimensions == ("arousal",)
    made_of = read_toml(folder / MANIFEST)["provenance"]["arousal"]
    assert (made_of["corpora"], made_of["clips"]) == (["CREMAD"], 4)
    more = Model(bundle)
    features = bundle.arrays("golden.npz")["normalized"].astype(np.float32)
    assert more.predict(features)[:-1].tobytes() == plain.predict(features).tobytes()
    spoken = [m for m in Pipeline(folder)(DEMO) if isinstance(m, Utterance)]
    assert all(0.0 <= (m.dimensions or {})["arousal"] <= 1.0 for m in spoken)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "## Arousal" in card
    assert "for evaluation only: RAVDESS" in " ".join(card.split())
    assert "- RAVDESS, without calm" not in card
    assert main([*words, "--write"]) == 2
    assert "has arousal already" in capsys.readouterr().err
    # The figures of a bundle that has arousal; without --corpora of heads of both.
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n| CREMAD") + shown.count("\n| RAVDESS") == 4
    found = evaluate(folder, read_manifest(tmp_path / "manifest.csv")).figures()
    assert 0 < found["dimensions"]["RAVDESS"]["arousal"]["n"] <= len(names)
    assert "CCC" in table(found)
