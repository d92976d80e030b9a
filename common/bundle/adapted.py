"""The bundle that was adapted to labels of its users, in place of the one that it was made from."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from speech_emotion.common.bundle.manifest import MANIFEST, Bundle, load_bundle
from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.errors import UserError

log = logging.getLogger("bundle")


def earlier_manifest(digest: str) -> str:
    """Name of the file in which an adapted bundle keeps an earlier manifest.

    Args:
        digest: SHA-256 of that manifest in hex.
    """
    return f"manifest-{digest[:8]}.toml"


def is_adapted_from(adapted: Bundle, own: Bundle) -> bool:
    """Whether a bundle is another one, or was adapted from it, perhaps several times."""
    return adapted.digest == own.digest or (adapted.path / earlier_manifest(own.digest)).is_file()


def bundle_in_use(own: Path, adapted: Path | None) -> Path:
    """The folder of the bundle to use: the adapted one, if it was made from the configured one.

    Args:
        own: folder of the configured bundle.
        adapted: folder for the adapted one, which may not exist; None: no review is configured.

    Raises:
        UserError: the configured bundle is not valid.
    """
    if adapted is None or not adapted.exists():
        return own
    configured = load_bundle(own)
    try:
        if is_adapted_from(load_bundle(adapted), configured):
            return adapted
    except UserError as error:
        log.warning("the adapted bundle is not used: %s", error)
        return own
    log.warning(
        "%s was adapted from another bundle than %s and is not used; move it away", adapted, own
    )
    return own


def adapted_id(folder: Path) -> str | None:
    """Id of a bundle that has a map of labels; None for another one, or where there is none."""
    try:
        content = (folder / MANIFEST).read_bytes()
        table = read_toml(folder / MANIFEST)
    except (OSError, UserError):
        return None
    if "personal" not in table:
        return None
    return f"{table.get('name')}@{hashlib.sha256(content).hexdigest()[:8]}"
