"""The model card of a bundle as HTML."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from markdown_it import MarkdownIt

from speech_emotion.common.bundle.manifest import MANIFEST
from speech_emotion.common.paths import DEFAULT_BUNDLE

CARD = "MODEL_CARD.md"
CARD_BYTES = 1 << 18


def bundle_folders(*bundles: Path | None) -> list[Path]:
    """Folders to search for a bundle: the given ones, then the shipped ones."""
    shipped = DEFAULT_BUNDLE.parent
    others = sorted(shipped.iterdir()) if shipped.is_dir() else []
    return [*(bundle for bundle in bundles if bundle is not None), *others]


def find_card(bundle_id: str, folders: Iterable[Path]) -> str | None:
    """The model card of a bundle as HTML; None if no folder has that bundle.

    Args:
        bundle_id: `NAME@HASH`; HASH is the first 8 hex digits of the manifest's SHA-256. The
            name alone does not identify a bundle.
    """
    digest = bundle_id.rpartition("@")[2]
    for folder in folders:
        try:
            manifest = (folder / MANIFEST).read_bytes()
            if hashlib.sha256(manifest).hexdigest()[:8] == digest:
                text = (folder / CARD).read_text("utf-8")[:CARD_BYTES]
                return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
        except OSError:
            continue
    return None
