"""`train distance`: the output that is added, and the calibration by it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.infer.decision import calibrate, distance_of
from speech_emotion.infer.model import Model
from speech_emotion.train.__main__ import main
from speech_emotion.train.bundle.whisper_bundle import measure
from speech_emotion.train.dimensions.distance import read
from speech_emotion.train.dimensions.model_file import ModelFile
from speech_emotion.train.evaluation.crossval import parameter_bundle
from speech_emotion.train.evaluation.held_out import calibrate as calibrate_on
from speech_emotion.train.model.whisper.graph import spec
from speech_emotion.train.model.whisper.heads import sum_windows
from tests.support.bundles import change, rehash
from tests.support.pipelines import ROOT
from tests.unit.train.test_heads import recipe, training_set

LABELS = ("angry", "happy", "neutral", "sad")
FAR = 4.0


def write(path: Path, seed: int) -> None:
    """Held-out outputs of three corpora; in the last, far one most confident labels are wrong."""
    rng = np.random.default_rng(seed)
    n, corpora = 240, ("A", "B", "C")
    corpus = np.repeat(corpora, n)
    label = np.tile(np.arange(4), 3 * n // 4)
    scores = rng.normal(0.0, 1.0, (3 * n, 4))
    lost = corpus == "C"
    heard = np.where(lost, rng.integers(4, size=3 * n), label)
    scores[np.arange(3 * n), heard] += 3.0
    raised = np.exp(scores)
    np.savez(
        path,
        labels=np.array(LABELS),
        corpus=corpus,
        speaker=np.char.add(corpus, (np.arange(3 * n) // 4 % 12).astype(str)),
        clip=np.arange(3 * n, dtype=np.int32),
        label=label.astype(np.int8),
        cold=(raised / raised.sum(axis=1, keepdims=True)).astype(np.float32),
        speech=np.full(3 * n, 0.99, np.float32),
        distance=np.where(lost, FAR, 1.0).astype(np.float32),
        relative=scores.astype(np.float32),
    )


def without_distance(folder: Path) -> None:
    """Copy `open`, and take the distance out of its outputs."""
    shutil.copytree(ROOT / "models" / "open", folder)
    bundle = load_bundle(folder)
    file = ModelFile(bundle.model.read_bytes())
    joined = file._graph.operators[-1]
    # The probabilities are one tensor, every other output is one of its own.
    position = bundle.distance_at - len(bundle.labels) + 1
    joined.inputs = [tensor for i, tensor in enumerate(joined.inputs) if i != position]
    file._graph.tensors[joined.outputs[0]].shape = np.array([1, bundle.outputs - 1], np.int32)
    bundle.model.write_bytes(file._pack())
    golden = bundle.arrays("golden.npz")
    golden["probabilities"] = np.delete(golden["probabilities"], bundle.distance_at)
    np.savez_compressed(folder / "golden.npz", **golden)  # type: ignore[arg-type]

    def edit(table: dict[str, Any]) -> None:
        table["distance_output"] = False
        table["calibration"]["distance"] = 0.0

    change(folder, edit)
    rehash(folder)


def test_files_without_distances_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file of `whisper crossval --outputs`"):
        read(tmp_path / "left_out.npz")
    write(tmp_path / "a.npz", 0)
    with np.load(tmp_path / "a.npz") as whole:
        few = {key: whole[key] for key in whole.files if key != "distance"}
    np.savez(tmp_path / "left_out.npz", **few)
    with pytest.raises(UserError, match="distance"):
        read(tmp_path / "left_out.npz")


def test_a_bundle_gets_the_distance_and_is_less_sure_of_far_sounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, outputs = tmp_path / "open", tmp_path / "outputs"
    without_distance(folder)
    before = Model(load_bundle(folder))
    outputs.mkdir()
    for seed, name in enumerate(("left_out.npz", "new_speakers.npz")):
        write(outputs / name, seed)
    figures = tmp_path / "figures.json"
    words = ["distance", "--bundle", str(folder), "--outputs", str(outputs), "--write"]
    words += ["--json", str(figures)]
    assert main(words) == 0
    assert "ECE with the temperatures that fit the other corpora" in capsys.readouterr().out
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert all(found["own_ece"][name] < ece for name, ece in found["nested_ece"].items())
    made = load_bundle(folder)
    assert made.calibration.distance > 0.1
    card = (folder / "MODEL_CARD.md").read_text()
    assert "Made by:\n\n    python -m train" in card
    assert card.index("## What it is for") < card.index("## Figures") < card.index("| A | 240 |")
    features = made.arrays("golden.npz")["normalized"].astype(np.float32)
    output = Model(made).predict(features)
    assert np.delete(output, made.distance_at).tobytes() == before.predict(features).tobytes()
    shipped = load_bundle(ROOT / "models" / "open")
    wanted = distance_of(Model(shipped).predict(features), shipped)
    assert distance_of(output, made) == pytest.approx(wanted, rel=1e-4)
    assert 0.1 < distance_of(output, made) < 10.0
    near, far = output.copy(), output.copy()
    near[made.distance_at], far[made.distance_at] = 1.0, FAR
    p_near, p_far = calibrate(near, made), calibrate(far, made)
    assert p_near is not None
    assert p_far is not None
    assert p_far.max() < p_near.max() - 0.05
    assert main(words) == 2


@pytest.mark.parametrize("corpora", [2, 3])
def test_two_corpora_are_not_calibrated_by_the_distance_but_on_new_speakers_too(
    corpora: int,
) -> None:
    rng = np.random.default_rng(0)
    known = training_set(corpora=corpora, offset=0.5)
    columns = known.renderings[0].x.shape[1]
    noise = rng.normal(4.0, 1.0, (50, columns)).astype(np.float16)
    figures = measure(sum_windows(dataclasses.replace(known, noise=noise), recipe(), 2, 0), spec())
    assert (figures.parameters.calibration.distance == 0.0) == (corpora == 2)
    labelled, left_out = figures.outputs["left_out"]
    blank = parameter_bundle(spec(), LABELS, speech_output=True, distance_output=corpora > 2)
    alone = calibrate_on(blank, labelled, left_out).calibration
    assert (figures.parameters.calibration == alone) == (corpora > 2)


@pytest.mark.parametrize("words", [["nonsense"], ["distance"], ["streams", "--no-such-flag"]])
def test_a_mistake_in_the_flags_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith("; see --help\n")
