"""Which bundle a pipeline uses after an adaptation, also after a restart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from speech_emotion.common.bundle.adapted import adapted_id, bundle_in_use
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.train.personal.adaptation import roll_back
from tests.support.bundles import change
from tests.support.personal import adapted
from tests.support.pipelines import BUNDLE


def test_the_adapted_bundle_is_used_where_it_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = tmp_path / "nowhere"
    assert bundle_in_use(BUNDLE, None) == BUNDLE
    assert bundle_in_use(BUNDLE, nowhere) == BUNDLE
    assert adapted_id(nowhere) is None
    ours = adapted(tmp_path, BUNDLE)
    assert bundle_in_use(BUNDLE, ours) == ours
    assert adapted_id(ours) == load_bundle(ours).id
    assert not caplog.records
    other = tmp_path / "other"
    shutil.copytree(BUNDLE, other)
    change(other, lambda table: table["decision"].update(smoothing=0.4))
    assert bundle_in_use(other, ours) == other
    assert "was adapted from another bundle" in caplog.text
    roll_back(ours)
    assert bundle_in_use(BUNDLE, ours) == ours
    assert load_bundle(ours).id == load_bundle(BUNDLE).id
    assert adapted_id(ours) is None
    (ours / "model.tflite").write_bytes(b"damaged")
    caplog.clear()
    assert bundle_in_use(BUNDLE, ours) == BUNDLE
    assert "SHA-256 differs" in caplog.text
