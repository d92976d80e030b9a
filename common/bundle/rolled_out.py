"""The bundle that the centre of a fleet rolled out, in place of the configured one."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import UserError

log = logging.getLogger("bundle")

STATE = "state.json"
"""What a box keeps over restarts about roll-outs, in the folder of the bundles."""
DIGEST = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class RolledOut:
    """A bundle that was rolled out.

    Attributes:
        digest: SHA-256 of its manifest in hex, the name of its folder.
        replaces: absolute path of the bundle that was configured then.
    """

    digest: str
    replaces: str

    @classmethod
    def from_table(cls, table: Any) -> RolledOut | None:
        """What a state file holds; None: there is none. Raises ValueError for another value."""
        if table is None:
            return None
        if (
            not isinstance(table, dict)
            or set(table) != {"digest", "replaces"}
            or not all(isinstance(value, str) for value in table.values())
            or not DIGEST.fullmatch(table["digest"])
        ):
            raise ValueError("names no bundle")
        return cls(**table)


def rolled_out_bundle(folder: Path, own: Path) -> Path:
    """The folder of the bundle that was rolled out in place of the configured one, else that.

    Args:
        folder: where bundles that were rolled out are; it may not exist.
        own: folder of the configured bundle.
    """
    state = folder / STATE
    try:
        found = RolledOut.from_table(json.loads(state.read_text()).get("in_use"))
    except FileNotFoundError:
        return own
    except (OSError, ValueError, AttributeError) as error:
        log.warning("%s: cannot be read (%s); %s is used", state, error, own)
        return own
    if found is None:
        return own
    bundle = folder / found.digest
    if found.replaces != str(own.absolute()):
        log.warning(
            "%s was rolled out in place of %s; it is not used, because %s is configured now",
            *(bundle, found.replaces, own),
        )
        return own
    try:
        load_bundle(bundle)
    except UserError as error:
        log.warning("the bundle that was rolled out is not used: %s", error)
        return own
    return bundle
