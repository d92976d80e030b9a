"""The type of a path in a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from speech_emotion.common.config.checks import expand_path

UserPath = Annotated[Path, AfterValidator(expand_path)]
"""A path whose leading `~` is expanded."""
