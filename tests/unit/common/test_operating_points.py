"""The operating points of a bundle: bias per label, thresholds, sensitivity."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.paths import PACKAGE

SMALL = PACKAGE / "models" / "small"


def changed(tmp_path: Path, decision: str, other: str = "") -> Path:
    """A copy of `models/small` with more keys in [decision], and more tables."""
    copy = tmp_path / "bundle"
    shutil.copytree(SMALL, copy)
    manifest = copy / "bundle.toml"
    text = manifest.read_text().replace("[decision]\n", f"[decision]\n{decision}\n")
    manifest.write_text(text.replace("[provenance]", f"{other}\n[provenance]", 1))
    return copy


def test_a_bundle_holds_operating_points(tmp_path: Path) -> None:
    count = len(load_bundle(SMALL).labels)
    bias = [0.0] * (count - 1) + [1.5]
    low = f"[sensitivity.low]\nbias = {bias}\nmin_utterance_confidence = 0.75"
    loaded = load_bundle(changed(tmp_path, "", low))
    assert loaded.at("medium").decision == loaded.decision == load_bundle(SMALL).decision
    chosen = loaded.at("low").decision
    assert chosen.bias == tuple(bias)
    assert chosen.min_utterance_confidence == 0.75
    assert chosen.min_speech == loaded.decision.min_speech
    assert chosen.min_confidence == loaded.decision.min_confidence
    assert loaded.at("low").id == loaded.id
    assert (loaded.has("low"), loaded.has("medium"), loaded.has("high")) == (True, True, False)
    assert loaded.at("high") == loaded


@pytest.mark.parametrize(
    ("decision", "other", "wanted"),
    [
        ("bias = [1.0]", "", "decision.bias = .* one per label"),
        ("bias = 1.0", "", "decision.bias = 1.0 must be"),
        ("bias = [0.0, 0.0, 99.0, 0.0]", "", "of -20 to 20"),
        ('bias = [0.0, 0.0, "a", 0.0]', "", "decision.bias = .* must be 4 numbers"),
        ("", "[sensitivity.most]\nbias = []", "sensitivity.most is not a key; allowed: low, high"),
        ("", "[sensitivity.medium]\nbias = []", "medium is the table decision"),
        ("", "[sensitivity.low]\nmin_speech = 0.1", "sensitivity.low.min_speech is not a key"),
        ("", "[sensitivity.low]\nmin_confidence = 2", "sensitivity.low.min_confidence = 2 must"),
        ("", "[sensitivity]\nlow = 3", "sensitivity.low must be a table"),
    ],
)
def test_a_mistake_in_an_operating_point_is_one_line(
    tmp_path: Path, decision: str, other: str, wanted: str
) -> None:
    with pytest.raises(UserError, match=wanted) as caught:
        load_bundle(changed(tmp_path, decision, other))
    assert "\n" not in str(caught.value)
