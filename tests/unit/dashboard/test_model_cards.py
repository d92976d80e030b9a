"""The model card of a bundle as HTML."""

from __future__ import annotations

from pathlib import Path

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.dashboard.model_cards import bundle_folders, find_card
from tests.support.pipelines import BUNDLE


def test_a_card_is_found_by_the_bundle_id_and_escaped(tmp_path: Path) -> None:
    card = find_card(load_bundle(BUNDLE).id, bundle_folders(None))
    assert card is not None
    assert "<table>" in card
    assert find_card("default@00000000", bundle_folders(None)) is None
    (tmp_path / "bundle.toml").write_text("")
    (tmp_path / "MODEL_CARD.md").write_text("<script>alert(1)</script> [x](javascript:alert(1))")
    card = find_card("x@e3b0c442", [tmp_path])  # SHA-256 of nothing
    assert card is not None
    assert "<script" not in card
    assert 'href="javascript' not in card
