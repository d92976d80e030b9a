"""What a box keeps over restarts about roll-outs: one file, replaced as a whole."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.rolled_out import DIGEST, STATE, RolledOut
from speech_emotion.common.errors import UserError
from speech_emotion.fleet.rollout.archive import sync_folder
from speech_emotion.fleet.rollout.orders import Order, Report


@dataclasses.dataclass(frozen=True)
class BoxState:
    """The state of a box.

    Attributes:
        report: what the centre is told.
        order: the one that is carried out; None: none is.
        attempts: how often its bundle was tried.
        in_use: the bundle that a start uses; None: the configured one.
        previous: what was in use before it.
    """

    report: Report = dataclasses.field(default_factory=Report)
    order: Order | None = None
    attempts: int = 0
    in_use: RolledOut | None = None
    previous: RolledOut | None = None


class StateFile:
    """The folder of the bundles, and the state in it.

    Args:
        folder: made with mode 0700 if it does not exist.

    Attributes:
        state: the newest state.

    Raises:
        UserError: the folder or the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / STATE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.state = _state(json.loads(self._path.read_text()))
        except FileNotFoundError:
            self.state = BoxState()
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be used ({error.strerror})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._path}: is no state of roll-outs ({error}); remove it, and the configured "
                "bundle is used"
            ) from None

    def change(self, **changes: Any) -> None:
        """Replace parts of the state; on the disk when it returns. Raises OSError."""
        state = dataclasses.replace(self.state, **changes)
        new = self._path.with_name(f"{STATE}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(state), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        sync_folder(self.folder)
        self.state = state

    def remove_others(self) -> None:
        """Remove every bundle but those in use, before it, and on trial."""
        state = self.state
        kept = {one.digest for one in (state.in_use, state.previous) if one is not None}
        kept |= {state.order.digest} if state.order is not None else set()
        for path in self.folder.iterdir():
            if DIGEST.fullmatch(path.name) and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


def _state(table: dict[str, Any]) -> BoxState:
    order = table["order"]
    return BoxState(
        report=Report(**table["report"]),
        order=None if order is None else Order(**order),
        attempts=int(table["attempts"]),
        in_use=RolledOut.from_table(table["in_use"]),
        previous=RolledOut.from_table(table["previous"]),
    )
