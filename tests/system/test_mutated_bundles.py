"""Damaged and lying bundles: every entrance refuses them with one printable line, without a hang.

The hashes in bundle.toml match the damaged files, so that each entrance parses them.
"""

from __future__ import annotations

import importlib.util
import io
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.bundle_entrances import ENTRANCES
from tests.support.bundles import change, rehash
from tests.support.pipelines import BUNDLE, DEMO, ROOT, fresh_endpoint

Mutation = Callable[[Path], None]

FILES = ("banks.npz", "golden.npz", "stats.npz")
ENTRANCE_S = 300


def member(header: dict[str, Any], content: bytes = b"") -> bytes:
    """An npy file with any header."""
    text = f"{header!r}\n".encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def replace(file: str, key: str, content: bytes) -> Mutation:
    """Replace one array of an npz file by other bytes."""

    def mutate(bundle: Path) -> None:
        with zipfile.ZipFile(bundle / file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(bundle / file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, old in members.items():
                archive.writestr(name, content if name == f"{key}.npy" else old)

    return mutate


def array(file: str, key: str, value: object, **flags: Any) -> Mutation:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asanyarray(value), **flags)
    return replace(file, key, content.getvalue())


def shape(file: str, key: str, dimensions: object, descr: str = "<f4") -> Mutation:
    header = {"descr": descr, "fortran_order": False, "shape": dimensions}
    return replace(file, key, member(header, b"\0" * 256))


def flip(file: str, seed: int) -> Mutation:
    """Change 20 random bytes after the first ones."""

    def mutate(bundle: Path) -> None:
        draw = random.Random(seed)
        content = bytearray((bundle / file).read_bytes())
        for _ in range(20):
            content[draw.randrange(30, len(content))] = draw.randrange(256)
        (bundle / file).write_bytes(content)

    return mutate


def cut(file: str, share: float) -> Mutation:
    def mutate(bundle: Path) -> None:
        content = (bundle / file).read_bytes()
        (bundle / file).write_bytes(content[: round(share * len(content))])

    return mutate


def write(file: str, content: bytes) -> Mutation:
    def mutate(bundle: Path) -> None:
        (bundle / file).write_bytes(content)

    return mutate


def table(section: str, **values: object) -> Mutation:
    return lambda bundle: change(bundle, lambda manifest: manifest[section].update(values))


def labels(*first: str) -> Mutation:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["labels"] = [*first, *manifest["labels"][len(first) :]]

    return lambda bundle: change(bundle, edit)


def top(**values: object) -> Mutation:
    return lambda bundle: change(bundle, lambda manifest: manifest.update(values))


MUTATIONS: dict[str, Mutation] = {
    **{
        f"flip-{file}-{seed}": flip(file, seed)
        for file in (*FILES, "model.tflite")
        for seed in range(4)
    },
    **{f"cut-{file}": cut(file, 0.5) for file in (*FILES, "model.tflite")},
    **{f"empty-{file}": write(file, b"") for file in FILES},
    "stats-text": write("stats.npz", b"no archive"),
    "stats-pickle": array("stats.npz", "mean", [{}], allow_pickle=True),
    "stats-strings": array("stats.npz", "mean", ["a"] * 64),
    "stats-complex": array("stats.npz", "mean", np.zeros(64, complex)),
    "stats-dates": array("stats.npz", "mean", np.zeros(64, "datetime64[s]")),
    "stats-nan": array("stats.npz", "mean", np.full(64, np.nan)),
    "stats-huge": array("stats.npz", "std", np.full(64, 1e300)),
    "stats-negative": array("stats.npz", "std", np.full(64, -1.0)),
    "stats-scalar": array("stats.npz", "mean", 1.0),
    "shape-2-40": shape("stats.npz", "mean", (1 << 40,)),
    "shape-2-80": shape("stats.npz", "mean", (1 << 80,)),
    "shape-product": shape("golden.npz", "audio", (1 << 33, 1 << 33)),
    "shape-negative": shape("golden.npz", "features", (-1, 64)),
    "shape-text": shape("golden.npz", "features", "many"),
    "shape-empty": shape("banks.npz", "window", ()),
    "dtype-unknown": shape("banks.npz", "mel", (64,), "<q9"),
    "dtype-empty": shape("banks.npz", "mel", (1 << 60,), "|V0"),
    "npy-version": replace("banks.npz", "mel", b"\x93NUMPY\x09\x00" + b"\0" * 100),
    "npy-nested": replace("banks.npz", "mel", b"\x93NUMPY\x01\x00\xff\x7f" + b"(" * 0x7FFF),
    "zip-bomb": replace("stats.npz", "mean", b"\0" * (80 << 20)),
    "golden-huge": array("golden.npz", "audio", np.full(16000, 3e38, np.float32)),
    "golden-nan": array("golden.npz", "normalized", np.full((26, 64), np.nan, np.float32)),
    "model-text": write("model.tflite", b"\x20\0\0\0TFL3" + b"no model" * 40),
    "labels-states": labels("silence"),
    "labels-gap": labels("gap"),
    "labels-speech": labels("Speech"),
    "labels-uncertain": labels("uncertain"),
    "labels-escape": labels("\x1b]0;title\x07"),
    "labels-newline": labels("angry\nok"),
    "labels-bidi": labels("angry\u202e"),
    "labels-spaces": labels(" angry"),
    "labels-many": top(labels=[f"label {n}" for n in range(5000)]),
    "key-escape": top(**{"\x1b[2J\nextra": 1}),
    "name-escape": top(name="\x1b[31m"),
    "name-number": top(name=10**60),
    "format-list": top(format=[1] * 1000),
    "files-path": table("files", **{"../../etc/passwd": "0"}),
    "files-long": table("files", **{"x" * 5000: "0"}),
    "files-zero": table("files", **{"a\0b": "0"}),
    "hop-tiny": table("features", hop_length=16, n_fft=16384, window_s=10.0),
    "frames-many": table("features", frames=4096, n_mels=256),
    "rate-huge": table("features", sample_rate=10**300),
    "window-huge": table("features", window_s=10**400),
    "eps-nan": table("features", eps=float("nan")),
    "temperature-huge": top(calibration={"temperature": 10**400}),
    "temperature-inf": top(calibration={"temperature": float("inf")}),
    "layout-list": table("input", layout=["dims"]),
    "two-models": write("model.onnx", b""),
}
ONNX = ROOT / "tests" / "data" / "models" / "waveform"
if importlib.util.find_spec("onnxruntime"):
    MUTATIONS |= {
        **{f"flip-onnx-{seed}": flip("model.onnx", seed) for seed in range(12)},
        **{f"onnx-cut-{share}": cut("model.onnx", share) for share in (0.01, 0.5, 0.99)},
        "onnx-empty": write("model.onnx", b""),
        "onnx-text": write("model.onnx", b"no model" * 40),
        "onnx-kind": table("features", kind="spectrum"),
        "onnx-mels": table("features", n_mels=64),
        "onnx-layout": table("input", layout="frames,dims"),
    }


def mutated(folder: Path, name: str) -> Path:
    bundle = folder / name
    whole = ONNX if "onnx-" in name else BUNDLE
    shutil.copytree(whole, bundle)
    MUTATIONS[name](bundle)
    files = {"bundle.toml", *(p.name for p in whole.iterdir())}
    if name == "two-models":
        change(bundle, lambda manifest: manifest["files"].update({"model.onnx": ""}))
        rehash(bundle)
    elif not name.startswith("files-"):
        assert {p.name for p in bundle.iterdir()} == files
        rehash(bundle)
    return bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for name in MUTATIONS:
        mutated(folder, name)
    shutil.copytree(BUNDLE, folder / "whole")
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples, rate = soundfile.read(DEMO, dtype="float32")
    path = tmp_path_factory.mktemp("sound") / "clip.wav"
    soundfile.write(path, samples[: 4 * rate], rate)
    return path


@pytest.mark.costly_cases
@pytest.mark.timeout(ENTRANCE_S)
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_a_mutated_bundle_is_refused_with_one_line(
    bundles: Path, sound: Path, entrance: str, tmp_path: Path
) -> None:
    copies = tmp_path / "bundles"  # `train calibrate` changes a bundle that it accepts
    shutil.copytree(bundles, copies)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.bundle_entrances", entrance, copies, sound],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=ENTRANCE_S,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    outcomes = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert set(outcomes) == {*MUTATIONS, "whole"}
    long = {name: text for name, text in outcomes.items() if len(text) > 800}
    assert not long
    assert all(text.isprintable() for text in outcomes.values())
    assert "Traceback" not in done.stderr
    accepted = {name for name, outcome in outcomes.items() if outcome == "ok"}
    if entrance == "stages":  # together they parse every file
        # Random bytes may hit only the padding of an archive, or the last digits of a number.
        assert {name for name in accepted if not name.startswith("flip-")} == {"whole"}


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    "name", ["labels-escape", "key-escape", "shape-2-40", "flip-golden.npz-0", "hop-tiny"]
)
def test_the_supervisor_refuses_a_mutated_bundle(tmp_path: Path, name: str) -> None:
    bundle = mutated(tmp_path, name)
    done = subprocess.run(
        [
            *(sys.executable, "supervisor.py", "--results", fresh_endpoint()),
            *("--source", f"file:{DEMO}", "--bundle", str(bundle)),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.isprintable()
    assert str(bundle) in line
