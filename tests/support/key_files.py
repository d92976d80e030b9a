"""Key files of a box and its clients, and free ports."""

from __future__ import annotations

from pathlib import Path

from speech_emotion.common.security.curve import (
    CurveClientKeys,
    make_keys,
)
from tools.ports import free_port


class KeyFolder:
    """Keys of a box, of a friend whom it lets in, and of a stranger."""

    def __init__(self, folder: Path) -> None:
        self.allowed = folder / "allowed"
        self.folder = folder
        make_keys(folder, "box")
        make_keys(folder, "stranger")
        make_keys(self.allowed, "friend")
        (self.allowed / "friend.key_secret").rename(folder / "friend.key_secret")
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.flags = [f"--results={self.endpoint}"]
        self.env = {
            "SEP_CURVE__SECRET": str(folder / "box.key_secret"),
            "SEP_CURVE__ALLOWED": str(self.allowed),
        }

    def client_keys(self, who: str, server: str = "box") -> CurveClientKeys:
        return CurveClientKeys(self.folder / f"{who}.key_secret", self.folder / f"{server}.key")
