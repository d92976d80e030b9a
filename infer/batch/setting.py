"""What all inputs of a batch have in common."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from speech_emotion.common.bundle.manifest import Bundle, load_bundle


@dataclasses.dataclass(frozen=True)
class Setting:
    """What decides the results beside the inputs, and where they go.

    Attributes:
        bundle: folder of the bundle.
        baseline, sensitivity, prosody, channel: as on the command line.
        folder: folder of the parts.
        parent: process id of the program.
    """

    bundle: str
    folder: str
    runtime: str = "auto"
    baseline: str | None = None
    sensitivity: str = "medium"
    prosody: bool = False
    channel: int | None = None
    parent: int = 0

    def load(self) -> Bundle:
        """The bundle at its operating point.

        Raises:
            UserError: it cannot be used.
        """
        return load_bundle(Path(self.bundle)).at(self.sensitivity)

    def index(self, bundle: Bundle) -> dict[str, str | int | None]:
        """What a folder of parts is for; another setting needs another folder."""
        return {
            "bundle": bundle.id,
            "baseline": self.baseline,
            "sensitivity": self.sensitivity,
            **({"prosody": True} if self.prosody else {}),
            "channel": self.channel,
        }

    def salt(self, bundle: Bundle, version: int) -> str:
        """The part of an input's key that does not depend on its content."""
        return json.dumps([version, bundle.digest, self.index(bundle)])
