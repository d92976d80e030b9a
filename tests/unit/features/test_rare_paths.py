"""Paths of the pure cores that a shipped bundle on a usual machine does not take."""

from __future__ import annotations

import dataclasses
import importlib.machinery
from typing import Any

import numpy as np
import pytest

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.features.core import FastCore, LibrosaCore, pocketfft
from speech_emotion.features.extractor import load_extractors
from speech_emotion.features.gate import FixedGate


def test_without_scipys_extension_or_with_another_one_scipy_itself_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def changed(_: object) -> bool:
        raise TypeError("r2c takes other arguments")

    monkeypatch.setattr(pocketfft, "_works", changed)
    assert pocketfft._load() is None
    monkeypatch.setattr(importlib.machinery, "EXTENSION_SUFFIXES", [])
    assert pocketfft._load() is None


def test_librosas_core_keeps_nothing_between_windows() -> None:
    core = LibrosaCore(FeatureSpec())
    assert core.stream() is core


def test_the_fast_core_says_whether_windows_share_frames() -> None:
    extractor = load_extractors(load_bundle(DEFAULT_BUNDLE))()
    core = extractor._core  # type: ignore[attr-defined,unused-ignore]
    assert isinstance(core, FastCore)
    assert isinstance(core.keeps_frames, bool)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audio": np.zeros(3, np.float32)}, "must have shape"),
        ({"features": None}, "computes other features"),
    ],
)
def test_a_bundle_whose_golden_vectors_differ_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    bundle = load_bundle(DEFAULT_BUNDLE)
    arrays = {name: bundle.arrays(name) for name in ("banks.npz", "golden.npz", "stats.npz")}
    golden: dict[str, Any] = dict(arrays["golden.npz"])
    for key, value in change.items():
        golden[key] = golden[key] + 1.0 if value is None else value
    arrays["golden.npz"] = golden
    monkeypatch.setattr(type(bundle), "arrays", lambda _, name: arrays[name])
    with pytest.raises(UserError, match=words):
        load_extractors(bundle)


def test_a_fixed_gate_has_no_state_to_restore() -> None:
    gate = FixedGate(dataclasses.replace(FeatureSpec(), gate="fixed"))
    gate.restore(gate.state())
    gate.reset()
    with pytest.raises(ValueError, match="has no state"):
        gate.restore([1.0])
