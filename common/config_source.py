"""Where a configuration comes from, beside the environment: a file, and the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class ConfigSource:
    """What `load_config` takes.

    Attributes:
        file: the TOML file; None: the pipeline was started without one.
        flags: key → value from the command line; it may hold passwords of sources.
    """

    file: Path | None = None
    flags: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)
