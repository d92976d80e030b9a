"""The folder for what a pipeline keeps over a restart."""

from __future__ import annotations

import os
from pathlib import Path

from speech_emotion.common.errors import UserError


def state_file(name: str, key: str) -> Path:
    """A file in the state folder of the service, else of the user; the folder may not exist.

    Args:
        key: configuration key that names another file, for the error.

    Raises:
        UserError: the user has no home folder.
    """
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if service:
        return Path(service) / name
    base = os.environ.get("XDG_STATE_HOME", "")
    try:
        folder = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:
        raise UserError(f"the home folder is unknown; set {key}") from None
    return folder / "speech-emotion" / name
