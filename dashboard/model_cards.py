"""The model card that belongs to a bundle's id, as HTML."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from markdown_it import MarkdownIt

from speech_emotion.common.bundle.manifest import MANIFEST
from speech_emotion.common.paths import DEFAULT_BUNDLE

CARD = "MODEL_CARD.md"
CARD_BYTES = 1 << 18


def folders(bundle: Path | None) -> list[Path]:
    """Where bundles may be: the given one, then those that are shipped."""
    shipped = DEFAULT_BUNDLE.parent
    others = sorted(shipped.iterdir()) if shipped.is_dir() else []
    return [*([bundle] if bundle is not None else []), *others]


def find_card(identity: str, where: Iterable[Path]) -> str | None:
    """The card of the bundle `NAME@first 8 hex of its hash` as HTML; None where none is here.

    The hash is the manifest's, as in `common.bundle`: the card of another bundle of that name
    would be worse than none.
    """
    digest = identity.rpartition("@")[2]
    for folder in where:
        try:
            manifest = (folder / MANIFEST).read_bytes()
            if hashlib.sha256(manifest).hexdigest()[:8] == digest:
                text = (folder / CARD).read_text("utf-8")[:CARD_BYTES]
                return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
        except OSError:
            continue
    return None
