"""Models of every input layout, on the installed runtimes."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from speech_emotion.common.bundle.manifest import LAYOUTS, WAVEFORM_LAYOUTS, load_bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.infer.model import Model, shape_input
from speech_emotion.infer.runtime import RUNTIMES, find_runtime
from tests.support.bundles import rehash
from tests.support.pipelines import BUNDLE, ROOT

CLASSIC = ROOT / "models" / "classic"
TINY = sorted((ROOT / "tests" / "data" / "models").glob("*/bundle.toml"))
INSTALLED = [
    name
    for name, runtime in RUNTIMES.items()
    if importlib.util.find_spec(runtime.module.partition(".")[0])
]


def test_every_layout_has_a_model() -> None:
    assert {load_bundle(path.parent).layout for path in TINY} == {*LAYOUTS, "1,samples"}


@pytest.mark.parametrize("runtime", INSTALLED)
@pytest.mark.parametrize(
    "path", [*TINY, BUNDLE / "bundle.toml", CLASSIC / "bundle.toml"], ids=lambda p: p.parent.name
)
def test_a_model_gives_its_golden_output(path: Path, runtime: str) -> None:
    bundle = load_bundle(path.parent)
    if bundle.model.suffix != RUNTIMES[runtime].suffix:
        with pytest.raises(UserError, match=f"runtime `{runtime}` cannot run {bundle.model.name}"):
            Model(bundle, runtime)
        return
    model = Model(bundle, runtime)
    golden = bundle.arrays("golden.npz")
    output = model.predict(golden["normalized"].astype(np.float32))
    assert output.shape == (bundle.outputs,)
    assert output == pytest.approx(golden["probabilities"], abs=1e-3)
    assert np.array_equal(output, model.predict(golden["normalized"].astype(np.float32)))


def test_classic_has_the_features_of_the_first_engine() -> None:
    bundle = load_bundle(CLASSIC)
    assert bundle.spec == FeatureSpec()
    assert (bundle.spec.n_frames, bundle.spec.dims) == (32, 128 + 12 + 15)
    assert bundle.spec.gate == "fixed"
    assert bundle.model.stat().st_size < 1_000_000


@pytest.mark.parametrize(("off", "refused"), [(0.015, False), (0.03, True)])
def test_outputs_far_from_the_golden_ones_are_refused(
    tmp_path: Path, off: float, refused: bool
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLE, folder)
    golden = dict(np.load(folder / "golden.npz"))
    golden["probabilities"] = golden["probabilities"] + np.float32(off)
    np.savez(folder / "golden.npz", **golden)
    rehash(folder)
    if refused:
        with pytest.raises(UserError, match=r"allowed 0\.02"):
            Model(load_bundle(folder))
    else:
        Model(load_bundle(folder))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_get_the_input_layout_of_the_model(layout: str) -> None:
    features = np.arange(6, dtype=np.float32).reshape(3, 2)  # 3 frames of 2 dims
    shaped = shape_input(features, layout)
    expected = {
        "frames,dims,1": features.reshape(1, 3, 2, 1),
        "frames,dims": features.reshape(1, 3, 2),
        "dims,frames": features.T.reshape(1, 2, 3),
        "dims,frames,1": features.T.reshape(1, 2, 3, 1),
        "dims": features.mean(axis=0).reshape(1, 2),
    }[layout]
    assert shaped.shape == expected.shape
    assert np.array_equal(shaped, expected)


@pytest.mark.parametrize("layout", WAVEFORM_LAYOUTS)
def test_samples_get_the_input_layout_of_the_model(layout: str) -> None:
    samples = np.arange(5, dtype=np.float32)
    shapes = {"samples": (1, 5), "1,samples": (1, 1, 5), "samples,1": (1, 5, 1)}
    assert np.array_equal(shape_input(samples[:, None], layout), samples.reshape(shapes[layout]))


def test_a_runtime_that_is_not_installed_is_named() -> None:
    missing = [name for name in RUNTIMES if name not in INSTALLED]
    for name in missing:
        with pytest.raises(UserError, match=RUNTIMES[name].package):
            find_runtime(name, f"model{RUNTIMES[name].suffix}")
    assert find_runtime("auto", "model.tflite") == INSTALLED[0]
