"""Write and change model bundles: folders that `common.bundle` loads, with hashes of all files."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from speech_emotion.common.bundle.baseline import Baseline
from speech_emotion.common.bundle.manifest import FORMAT, MANIFEST, MODEL_FILES, Bundle, load_bundle
from speech_emotion.common.bundle.parameters import OPERATING_POINT_KEYS, Calibration, Decision
from speech_emotion.common.bundle.spec import FeatureSpec, read_toml
from speech_emotion.features.core import Banks, make_core, normalize
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.model import Model, shape_input
from speech_emotion.infer.runtime import Network, find_runtime, load_network

Samples = NDArray[np.float32]


def write_bundle(
    path: Path,
    *,
    name: str,
    model: bytes,
    labels: tuple[str, ...],
    spec: FeatureSpec,
    layout: str,
    output: str,
    stats: tuple[Samples, Samples],
    golden_audio: Samples,
    card: str,
    licence: str,
    calibration: Calibration | None = None,
    decision: Decision | None = None,
    sensitivity: Mapping[str, Decision] | None = None,
    licence_id: str = "",
    speech_output: bool = False,
    distance_output: bool = False,
    baseline: Baseline | None = None,
    dimensions: tuple[str, ...] = (),
    provenance: Mapping[str, Any] | None = None,
    model_file: str = MODEL_FILES[0],
) -> Bundle:
    """Write the folder `path`, and load it with the checks of the features and infer stages.

    Args:
        model: content of `model_file`, with one input and one output.
        stats: mean and standard deviation, (dims,) or (frames, dims).
        golden_audio: one window of sound, (spec.window,); its features and probabilities are
            stored as the golden vectors of the self-test.
        card: text of MODEL_CARD.md.
        licence: text of LICENSE.
        sensitivity: decisions of the operating points `low` and `high`.
        licence_id: SPDX identifier of the licence.
        speech_output: behind the labels, the model's output has the probability of speech.
        distance_output: behind that, it has the distance of the window from the training sounds.
        baseline: behind that, it has relative scores, used with these parameters.
        dimensions: behind that, it has a value for each of these.
        provenance: origin of the model: corpora, seed, command, ….
        model_file: `model.tflite` or `model.onnx`.

    Raises:
        UserError: the parts do not fit together.
    """
    mean, std = stats
    banks = Banks.from_librosa(spec)
    features = make_core(spec, banks).extract(golden_audio)
    normalized = normalize(features, mean, std, spec.eps)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / model_file).write_bytes(model)
    (partial / "MODEL_CARD.md").write_text(card)
    (partial / "LICENSE").write_text(licence)
    np.savez(partial / "stats.npz", mean=mean, std=std)
    if not spec.waveform:
        np.savez_compressed(partial / "banks.npz", **banks.to_arrays())  # type: ignore[arg-type]
    network = open_network(partial / model_file)
    np.savez_compressed(
        partial / "golden.npz",
        audio=golden_audio.astype(np.float32),
        features=features,
        normalized=normalized,
        probabilities=run_all(network, normalized[np.newaxis], layout)[0],
    )
    table: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "labels": list(labels),
        "licence": licence_id,
        "output": output,
        "speech_output": speech_output,
        "distance_output": distance_output,
        "features": spec.to_table(),
        "input": {"layout": layout},
        "calibration": dataclasses.asdict(calibration or Calibration()),
        "decision": dataclasses.asdict(decision or Decision()),
        "provenance": dict(provenance or {}),
    }
    if sensitivity:
        table["sensitivity"] = {
            name: {key: getattr(chosen, key) for key in OPERATING_POINT_KEYS}
            for name, chosen in sensitivity.items()
        }
    if baseline is not None:
        table |= {"relative_output": True, "baseline": dataclasses.asdict(baseline)}
    if dimensions:
        table["dimensions"] = list(dimensions)
    _seal(partial, table)
    _check(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    return load_bundle(path)


def _seal(path: Path, table: dict[str, Any]) -> None:
    """Write bundle.toml with the SHA-256 hashes of all other files."""
    table["files"] = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.iterdir())
        if file.name != MANIFEST
    }
    (path / MANIFEST).write_text(tomli_w.dumps(table))


def append_to_card(path: Path, text: str) -> Bundle:
    """Append a paragraph to a bundle's MODEL_CARD.md, and update its hash in the manifest."""
    load_bundle(path)
    card = path / "MODEL_CARD.md"
    card.write_text(card.read_text() + "\n" + text + "\n")
    _seal(path, read_toml(path / MANIFEST))
    return load_bundle(path)


def add_dimension(
    path: Path, name: str, model: bytes, card: str, made: Mapping[str, Any]
) -> Bundle:
    """Give a bundle a model with one more output, for a dimension.

    Args:
        model: has the outputs of the present one, with the same bits, and one more.
        card: appended to the model card.
        made: added to the provenance, under the dimension's name.

    Raises:
        RuntimeError: the model gives other outputs for the golden vectors.
    """
    bundle = load_bundle(path)
    shown = path / "MODEL_CARD.md"
    table = read_toml(path / MANIFEST)
    table["dimensions"] = [*bundle.dimensions, name]
    table["provenance"][name] = dict(made)
    return change_model(path, model, bundle.outputs, f"{shown.read_text()}\n{card}\n", table)


def change_model(path: Path, model: bytes, added: int, card: str, table: dict[str, Any]) -> Bundle:
    """Give a bundle a model with one more output.

    Args:
        model: has the outputs of the present one, with the same bits, and one more.
        added: index of the new output.
        card: text of the model card.
        table: the manifest.

    Raises:
        RuntimeError: the model gives other outputs for the golden vectors.
    """
    bundle = load_bundle(path)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(path, partial)
    (partial / bundle.model_file).write_bytes(model)
    golden = bundle.arrays("golden.npz")
    window = golden["normalized"][np.newaxis].astype(np.float32)
    before = run_all(open_network(path / bundle.model_file), window, bundle.layout)[0]
    after = run_all(open_network(partial / bundle.model_file), window, bundle.layout)[0]
    if np.delete(after, added).tobytes() != before.tobytes():
        raise RuntimeError("the new model gives other outputs than the present one")
    golden["probabilities"] = np.insert(golden["probabilities"], added, after[added])
    np.savez_compressed(partial / "golden.npz", **golden)  # type: ignore[arg-type]
    (partial / "MODEL_CARD.md").write_text(card)
    _seal(partial, table)
    _check(partial)
    shutil.rmtree(path)
    partial.rename(path)
    return load_bundle(path)


def update_bundle(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> Bundle:
    """Change values in the tables of a bundle's manifest, e.g. `{"features": {"gate_dbfs": -50}}`.

    Raises:
        UserError: the bundle is not valid, before or after the change; the manifest is unchanged.
    """
    load_bundle(path)
    table = read_toml(path / MANIFEST)
    for key, values in changes.items():
        table[key] = {**table.get(key, {}), **values}
    before = (path / MANIFEST).read_bytes()
    _seal(path, table)
    try:
        return _check(path)
    except Exception:
        (path / MANIFEST).write_bytes(before)
        raise


def _check(path: Path) -> Bundle:
    """Load the bundle as features and infer do, with their self-tests on the golden vectors."""
    bundle = load_bundle(path)
    load_extractors(bundle)
    Model(bundle)
    return bundle


def open_network(path: Path, shown: Path | None = None) -> Network:
    """The network of a model file, on the first runtime that is installed for it.

    Raises:
        UserError: see `load_network`.
    """
    return load_network(path, find_runtime("auto", path.name), shown or path)


def run_all(network: Network, normalized: Samples, layout: str) -> Samples:
    """Raw outputs (n, size) of a network for normalized features (n, frames, dims)."""
    return np.stack([network.run(shape_input(x, layout))[0] for x in normalized])


def run_tflite_all(model: bytes, normalized: Samples, layout: str) -> Samples:
    """`run_all` for a TFLite flatbuffer."""
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(model)
        file.flush()
        return run_all(open_network(Path(file.name)), normalized, layout)
