"""Which bundle a pipeline uses: the configured, a rolled out, or an adapted one."""

from __future__ import annotations

from pathlib import Path

from speech_emotion.common.bundle.adapted import bundle_in_use
from speech_emotion.common.bundle.rolled_out import rolled_out_bundle
from speech_emotion.common.config.model import Config


def own_bundle(config: Config) -> Path:
    """The folder of the bundle before any adaptation: rolled out by the centre, else configured."""
    nats = config.nats
    if nats.url is None or nats.rollout is None:
        return config.bundle
    return rolled_out_bundle(nats.bundles_folder, config.bundle)


def bundle_to_use(config: Config) -> Path:
    """The folder of the bundle to use at a start."""
    file = config.review.file
    adapted = config.review.adapted_folder(file) if file is not None else None
    return bundle_in_use(own_bundle(config), adapted)
