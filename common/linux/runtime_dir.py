"""The runtime folder of a pipeline: its sockets and copies of bundles, for its owner only."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity

MAX_IPC_PATH = 100
"""sun_path holds 107 characters, of which the name of the socket takes some."""


def runtime_base_dir() -> Path:
    """`$XDG_RUNTIME_DIR/sep`, else `sep-<uid>` in the folder for temporary files; 0700.

    Raises:
        UserError: the folder belongs to another user or cannot be created.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "sep"
    else:
        folder = Path(tempfile.gettempdir()) / f"sep-{os.getuid()}"
    return _owned(folder)


def create_runtime_dir() -> Path:
    """A new folder of this process in `runtime_base_dir()`, named by process id and start time.

    Raises:
        UserError: its path is too long for a socket, or it cannot be created.
    """
    folder = runtime_base_dir() / str(ProcessIdentity.current())
    if len(str(folder)) > MAX_IPC_PATH - len("/features"):
        raise UserError(f"{folder}: too long for a socket; set XDG_RUNTIME_DIR to a short path")
    return _owned(folder)


def standalone_dir() -> Path:
    """The folder of the sockets of stages that were started by hand."""
    return _owned(runtime_base_dir() / "alone")


def standalone_endpoint(name: str) -> str:
    """The endpoint `hub` or `features` of stages that were started by hand."""
    return f"ipc://{standalone_dir()}/{name}"


def reclaim_runtime_dirs() -> list[str]:
    """Remove the folders of processes that have ended; returns their names."""
    removed = []
    for folder in runtime_base_dir().iterdir():
        owner = ProcessIdentity.parse(folder.name)
        if owner is not None and not owner.alive():
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder.name)
    return removed


def _owned(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror})") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another user; remove it or set XDG_RUNTIME_DIR")
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder
