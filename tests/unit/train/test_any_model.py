"""`train bundle` with ONNX models: layouts, 8-bit ends, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from speech_emotion import Pipeline, Utterance
from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.model import Model
from speech_emotion.train.bundle.convert import bundle_model
from tests.support import onnx_models
from tests.support.onnx_models import LABELS
from tests.support.pipelines import DEMO

SPEC = FeatureSpec(
    window_s=0.5, hop_s=0.25, n_fft=256, hop_length=800, n_mfcc=0, chroma=False, n_mels=6, mel="db"
)
WAVEFORM = FeatureSpec(kind="waveform", window_s=0.5, hop_s=0.25)


def sound(spec: FeatureSpec) -> np.ndarray:
    noise = np.random.default_rng(3).standard_normal(spec.window)
    return (0.1 * noise).astype(np.float32)


def bundle(model: Path, spec: FeatureSpec = SPEC, labels: tuple[str, ...] = LABELS) -> Bundle:
    return bundle_model([model], spec, labels, model.parent / "made", sound(spec))


def refusal(model: Path, spec: FeatureSpec = SPEC, labels: tuple[str, ...] = LABELS) -> str:
    with pytest.raises(UserError) as error:
        bundle(model, spec, labels)
    text = str(error.value)
    assert text.isprintable()
    assert text.startswith(str(model))
    return text


@pytest.mark.parametrize("frames", [SPEC.n_frames, "time"])
def test_an_onnx_model_gets_the_features(tmp_path: Path, frames: int | str) -> None:
    made = bundle(onnx_models.write(tmp_path / "x.onnx", frames, SPEC.dims))
    assert (made.layout, made.output, made.model_file) == (
        "frames,dims",
        "probabilities",
        "model.onnx",
    )
    golden = made.arrays("golden.npz")
    features = golden["normalized"].astype(np.float32)
    assert golden["probabilities"] == pytest.approx(onnx_models.expected(features), abs=1e-6)
    model = Model(made)
    assert model.runtime == "onnx"
    assert np.array_equal(model.predict(features), golden["probabilities"])


@pytest.mark.parametrize(
    ("frames", "dims", "layout"), [(8000, 1, "samples,1"), (1, 8000, "1,samples")]
)
def test_a_waveform_is_the_samples_of_the_window(
    tmp_path: Path, frames: int, dims: int, layout: str
) -> None:
    made = bundle(onnx_models.write(tmp_path / "x.onnx", frames, dims), WAVEFORM)
    assert made.layout == layout
    assert not (made.path / "banks.npz").exists()
    extractor = load_extractors(made)()
    samples = sound(WAVEFORM)
    features = extractor.analyze(samples).features
    assert features is not None
    assert np.array_equal(features[:, 0].view(np.int32), samples.view(np.int32))


@pytest.mark.parametrize(("ends", "zero_point"), [(np.int8, -20), (np.uint8, 200)])
def test_8_bit_ends_are_converted_with_their_scale(
    tmp_path: Path, ends: type[np.generic], zero_point: int
) -> None:
    path = onnx_models.write(
        tmp_path / "x.onnx", SPEC.n_frames, SPEC.dims, ends=ends, scale=1.0, zero_point=zero_point
    )
    made = bundle(path)
    assert made.output == "probabilities"
    model = Model(made)
    rng = np.random.default_rng(1)
    for _ in range(5):
        features = rng.uniform(-50, 0, (SPEC.n_frames, SPEC.dims)).astype(np.float32)
        rounded = np.clip(np.rint(features) + zero_point, *limits(ends)) - zero_point
        wanted = onnx_models.expected(rounded.astype(np.float32))
        found = model.predict(features)
        assert found.dtype == np.float32
        assert found == pytest.approx(wanted, abs=onnx_models.OUTPUT_SCALE)


def limits(ends: type[np.generic]) -> tuple[int, int]:
    info = np.iinfo(ends)  # type: ignore[type-var]
    return info.min, info.max


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, size = tmp_path / "x.onnx", (SPEC.n_frames, SPEC.dims)
    write = onnx_models.write
    assert "has 2 inputs (x, lengths), not one" in refusal(write(path, *size, second_input=True))
    assert "other values for the same window" in refusal(write(path, *size, noise=True))
    assert "takes 8 windows at once" in refusal(write(path, *size, batch=8))
    assert "--labels names 3" in refusal(write(path, *size), labels=LABELS[:3])
    assert "set features.frames" in refusal(write(path, 7, 5))
    assert "set features.window_s to 0.25" in refusal(write(path, 4000, 1), WAVEFORM)
    float64 = write(path, *size).read_bytes().replace(b"ReduceMean", b"ReduceMeen")
    path.write_bytes(float64)
    assert "cannot be loaded by onnxruntime" in refusal(path)
    path.write_bytes(b"no model")
    assert "the model is damaged" in refusal(path)
    path.with_name("x.onnx.data").write_bytes(b"")
    assert "external_data=False" in refusal(path)


def test_outputs_may_be_dimensions(tmp_path: Path) -> None:
    path = onnx_models.write(tmp_path / "x.onnx", SPEC.n_frames, SPEC.dims)
    named: dict[str, Any] = {"dimensions": ("valence", "arousal")}
    made = bundle_model([path], SPEC, LABELS[:2], tmp_path / "made", sound(SPEC), **named)
    assert (made.labels, made.outputs, made.output) == (LABELS[:2], 4, "logits")
    assert made.dimensions == named["dimensions"]
    with pytest.raises(UserError, match="gives 4 values, but --labels and --dimensions name 2"):
        bundle_model([path], SPEC, (), tmp_path / "made", sound(SPEC), **named)
    with pytest.raises(UserError, match="must name the outputs"):
        bundle_model([path], SPEC, (), tmp_path / "made", sound(SPEC))


def test_a_bundle_may_have_dimensions_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_models, "LABELS", ("arousal", "valence"))
    path = onnx_models.write(tmp_path / "x.onnx", SPEC.n_frames, SPEC.dims)
    out = tmp_path / "made"
    bundle_model([path], SPEC, (), out, sound(SPEC), dimensions=onnx_models.LABELS)
    utterance = next(m for m in Pipeline(out)(DEMO) if isinstance(m, Utterance))
    assert (utterance.emotion, utterance.reason) == ("uncertain", "no_labels")
    assert sum((utterance.dimensions or {}).values()) == pytest.approx(1.0)


def test_files_without_a_network_are_refused(tmp_path: Path) -> None:
    for name, text in (("x.pth", "has no network"), ("x.h5", "--model takes one .onnx")):
        with pytest.raises(UserError, match=text):
            bundle(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        bundle(tmp_path / "missing.onnx")


def test_a_pt2_file_without_pytorch_says_how_to_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(b"")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    text = refusal(path)
    assert "needs torch" in text
    assert "torch.onnx.export(torch.export.load('x.pt2'), f='model.onnx'" in text
