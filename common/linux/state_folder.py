"""Where files lie that a program keeps over its restarts."""

from __future__ import annotations

import os
from pathlib import Path

from speech_emotion.common.errors import UserError


def state_file(name: str, setting: str) -> Path:
    """A file in the state folder of the service, else of the user.

    Args:
        setting: the configuration key that names another file.

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
        raise UserError(f"the home folder is unknown; set {setting}") from None
    return folder / "speech-emotion" / name
