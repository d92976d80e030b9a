"""Training from a tiny synthetic corpus to a bundle and its figures. Needs the extra `train`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.model import Model

pytest.importorskip("tensorflow")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPO = Path(__file__).resolve().parents[2]
RATE = 16000
PITCH = {"angry": 320.0, "happy": 240.0, "neutral": 160.0, "sad": 100.0}

RECIPE = """
[features]
window_s = 1.0
n_fft = 512
hop_length = 800
n_mfcc = 0
chroma = false
chroma_tuning = 0.0
n_mels = 24
mel = "db_max"
gate = "adaptive"

[recipe]
copies = 1
steps = 90
batch = 32
noise = 0.15
noise_minutes = 2
speech_head = 0.3
overlay = 0.3
tilt = 1.0

[network]
channels = [8, 12]
hidden = 8
"""


def voice(emotion: str, speaker: int, number: int) -> np.ndarray:
    """A buzz with syllables whose pitch depends on the emotion."""
    rng = np.random.default_rng([speaker, number, int(PITCH[emotion])])
    t = np.arange(round(1.6 * RATE)) / RATE
    f = PITCH[emotion] * (1 + 0.02 * speaker) * rng.uniform(0.95, 1.05)
    tone = sum(np.sin(2 * np.pi * f * k * t) / k for k in range(1, 14))
    syllables = np.clip(np.sin(2 * np.pi * (3 * t + rng.random())), 0, 1)
    return 0.1 * tone * syllables + 1e-4 * rng.standard_normal(len(t))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    lines = ["path,corpus,speaker,gender,emotion"]
    for speaker in range(4):
        for emotion in PITCH:
            for number in range(3):
                name = f"{speaker}{emotion}{number}.wav"
                sf.write(root / name, voice(emotion, speaker, number), RATE)
                gender = "male" if speaker % 2 else "female"
                lines.append(f"{name},MADE,MADE_{speaker},{gender},{emotion}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    (root / "recipe.toml").write_text(RECIPE)
    return root


def train(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "train", *map(str, arguments)],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def fit(corpus: Path, out: Path, work: Path) -> None:
    train(
        *("fit", "--manifest", corpus / "manifest.csv", "--recipe", corpus / "recipe.toml"),
        *("--folds", "2", "--work", work, "--name", "made", "--out", out),
    )


@pytest.fixture(scope="module")
def bundle(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "made"
    fit(corpus, out, corpus / "work")
    return out


def test_the_bundle_passes_the_pipelines_own_checks(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    load_extractors(loaded)
    Model(loaded)
    assert loaded.labels == ("angry", "happy", "neutral", "sad")
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "| MADE | 48 |" in card


def test_evaluate_gives_the_promised_json_and_a_report(corpus: Path, bundle: Path) -> None:
    out = corpus / "figures.json"
    train(
        *("evaluate", "--bundle", bundle, "--manifest", corpus / "manifest.csv"),
        *("--json", out, "--report", corpus / "report"),
    )
    found = json.loads(out.read_text())
    assert set(found) == {"overall", "corpora"}
    assert set(found["corpora"]) == {"MADE"}
    assert set(found["overall"]) == {"utterance", "window"}
    assert found["overall"]["utterance"]["n"] == 48
    # The bundle was trained on these clips, whose pitch determines the label.
    assert found["overall"]["utterance"]["uar"] > 0.5
    page = (corpus / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64") == 4
    assert 'src="http' not in page


def test_the_same_seed_gives_the_same_model(corpus: Path, bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    fit(corpus, again, tmp_path / "fresh")
    assert (again / "model.tflite").read_bytes() == (bundle / "model.tflite").read_bytes()


def test_a_taught_bundle_is_calibrated_on_corpora_left_out(corpus: Path, tmp_path: Path) -> None:
    from speech_emotion.train.data.clips import read_manifest
    from speech_emotion.train.data.splits import leave_corpus_out, speaker_folds
    from speech_emotion.train.model.teacher_file import write_teacher_file

    manifest = (corpus / "manifest.csv").read_text()
    for speaker in (2, 3):
        manifest = manifest.replace(f",MADE,MADE_{speaker},", f",NEW,NEW_{speaker},")
    (corpus / "two.csv").write_text(manifest)
    recipe = RECIPE.replace("[recipe]", "[recipe]\ndistil = 0.7\nemotion_head = 0.0")
    (tmp_path / "taught.toml").write_text(recipe)
    clips = read_manifest(corpus / "two.csv")
    labels = tuple(PITCH)
    splits = {}
    for split in (*speaker_folds(clips, 2), *leave_corpus_out(clips)):
        sure = np.array([[0.91 if c.emotion == e else 0.03 for e in labels] for c in clips])
        sure[split.test] = np.nan
        splits[split.name] = sure.astype(np.float32)
    splits["all"] = np.nanmax(list(splits.values()), axis=0)
    write_teacher_file(tmp_path / "teacher.npz", [c.name for c in clips], labels, splits)
    out = tmp_path / "pupil"
    train(
        *("fit", "--manifest", corpus / "two.csv", "--recipe", tmp_path / "taught.toml"),
        *("--teacher", tmp_path / "teacher.npz", "--left-out", "corpora", "--folds", "2"),
        *("--work", tmp_path / "work", "--name", "pupil", "--out", out),
    )
    bundle = load_bundle(out)
    Model(bundle)
    assert set(bundle.sensitivity) == {"low", "high"}
    card = (out / "MODEL_CARD.md").read_text()
    new, _, known = card.partition("**New speakers, known corpora**")
    for table in (new, known):
        assert "| MADE | 24 |" in table or "| MADE | 12 |" in table
    assert "70 % of the targets" in card


def test_a_stopped_training_resumes_at_its_checkpoint(corpus: Path, tmp_path: Path) -> None:
    import keras

    from speech_emotion.train.data.clips import read_manifest
    from speech_emotion.train.model.fit import fit as fit_network
    from speech_emotion.train.model.recipe import load_plan
    from speech_emotion.train.model.training_job import prepare

    plan = load_plan(corpus / "recipe.toml")
    job = prepare(plan, read_manifest(corpus / "manifest.csv"), corpus / "work", workers=1)
    all_clips = np.arange(len(job.training_set.clips))

    def weights(checkpoint: Path, stop: int | None = None) -> list[np.ndarray]:
        keras.backend.clear_session()
        fitted = fit_network(
            job.training_set, all_clips, plan.recipe, seed=3, checkpoint=checkpoint, stop=stop
        )
        values: list[np.ndarray] = fitted.model.get_weights()
        return values

    straight = weights(tmp_path / "straight.npz")
    stopped = weights(tmp_path / "stopped.npz", stop=25)
    resumed = weights(tmp_path / "stopped.npz")
    assert not all(map(np.array_equal, straight, stopped))
    assert all(map(np.array_equal, straight, resumed))


def test_the_level_is_removed_from_the_first_feature_and_its_course_is_kept() -> None:
    from speech_emotion.train.model.network import Network, build

    network = Network(channels=(4, 8), hidden=8, centre_first=True)
    model = build(network, 20, 12, {"label": 4})
    x = np.random.default_rng(0).standard_normal((3, 20, 12, 1)).astype(np.float32)

    def scores(change: np.ndarray | np.float32) -> np.ndarray:
        return np.asarray(model((x + change).astype(np.float32), training=False)["label"])

    louder, rising, higher = np.zeros((3, 1, 20, 12, 1), np.float32)
    louder[..., 0, 0], rising[0, :, 0, 0], higher[..., 1, 0] = 3.0, np.linspace(-2, 2, 20), 3.0
    np.testing.assert_allclose(scores(louder), scores(np.float32(0)), atol=1e-5)
    assert np.abs(scores(rising) - scores(np.float32(0))).max() > 1e-3
    assert np.abs(scores(higher) - scores(np.float32(0))).max() > 1e-3


def test_calibrate_closes_the_gate_on_a_noisy_room(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "made"
    shutil.copytree(bundle, copy)
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.standard_normal(90 * RATE)
    noise *= np.repeat(10 ** (rng.uniform(-12, 0, 900) / 20), RATE // 10)
    sf.write(tmp_path / "room.wav", noise, RATE)
    output = train("calibrate", "--bundle", copy, "--recording", tmp_path / "room.wav")
    assert "0 now" in output
    assert load_bundle(copy).spec.gate_margin_db >= load_bundle(bundle).spec.gate_margin_db


def test_a_conv1d_lstm_of_the_original_design_becomes_a_bundle(tmp_path: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((108, 180)),
            layers.Conv1D(8, 5, activation="relu"),
            layers.LSTM(6),
            layers.Dense(3, activation="softmax"),
        ]
    )
    (tmp_path / "config.json").write_text(model.to_json())
    model.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "spec.toml").write_text(
        "[features]\nwindow_s = 5.75\nhop_s = 0.5\nn_mfcc = 40\nn_mels = 56\nframes = 180\n"
    )
    out = tmp_path / "mine"
    output = train(
        *("bundle", "--model", tmp_path / "config.json", tmp_path / "model.weights.h5"),
        *("--spec", tmp_path / "spec.toml", "--labels", "angry,happy,sad", "--out", out),
    )
    assert "input dims,frames, output probabilities" in output
    loaded = load_bundle(out)
    golden: dict[str, Any] = {**loaded.arrays("golden.npz")}
    expected = np.asarray(model(golden["normalized"].T[np.newaxis]))[0]
    np.testing.assert_allclose(golden["probabilities"], expected, atol=1e-4)


def test_user_mistakes_are_one_line(corpus: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "train",
            "evaluate",
            "--bundle",
            "models/none",
            "--manifest",
            corpus / "manifest.csv",
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: models/none")


@pytest.mark.parametrize(
    "command", ["", "fit", "crossval", "evaluate", "explore", "calibrate", "events", "bundle"]
)
def test_help_needs_no_tensorflow_and_shows_examples(command: str) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['train', *{command.split()!r}, '--help']\n"
        "try:\n    runpy.run_module('train', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "loaded = {'tensorflow', 'keras', 'scipy', 'librosa'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert command or "examples:" in done.stdout
