"""`--sensitivity` from the command line: the label changes, the probabilities do not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from speech_emotion.common.paths import DEMO_CLIP, IMPORT_ROOT, PACKAGE

LOW = """
[sensitivity.low]
bias = [0.0, 0.0, 20.0, 0.0]
min_confidence = 0.0
min_utterance_confidence = 0.0

[provenance]"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `models/small` whose operating point `low` calls every voice neutral."""
    copy = tmp_path_factory.mktemp("sensitivity") / "bundle"
    shutil.copytree(PACKAGE / "models" / "small", copy)
    manifest = copy / "bundle.toml"
    manifest.write_text(manifest.read_text().replace("\n[provenance]", LOW, 1))
    return copy


def infer(bundle: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "speech_emotion.infer", str(DEMO_CLIP), "--json"]
    command += ["--bundle", str(bundle), *flags]
    return subprocess.run(command, cwd=IMPORT_ROOT, capture_output=True, text=True, check=False)


def test_an_operating_point_changes_labels_but_no_probability(bundle: Path) -> None:
    medium, low = infer(bundle), infer(bundle, "--sensitivity", "low")
    assert (medium.returncode, low.returncode) == (0, 0), medium.stderr + low.stderr
    before, after = ([json.loads(line) for line in r.stdout.splitlines()] for r in (medium, low))
    spoken = [(b, a) for b, a in zip(before, after, strict=True) if a.get("probabilities")]
    given = {a["emotion"] for _, a in spoken if a["reason"] is None}
    assert given == {"neutral"}
    assert any(b["emotion"] != a["emotion"] for b, a in spoken)
    for b, a in spoken:
        assert a["probabilities"] == b["probabilities"]
        shown = a.get("smoothed") or a["probabilities"]
        assert a["confidence"] == shown["neutral"]


def test_a_point_that_the_bundle_does_not_hold_is_one_warning(bundle: Path) -> None:
    medium, high = infer(bundle), infer(bundle, "--sensitivity", "high")
    assert high.returncode == 0
    assert high.stdout == medium.stdout
    (line,) = [line for line in high.stderr.splitlines() if "sensitivity" in line]
    assert "sensitivity: medium" in line
    assert "no operating point high" in line


def test_an_unknown_point_is_one_line() -> None:
    result = infer(PACKAGE / "models" / "small", "--sensitivity", "most")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "invalid choice: 'most'" in result.stderr
