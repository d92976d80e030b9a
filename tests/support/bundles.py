"""Copies of a bundle with changes."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    manifest = folder / "bundle.toml"
    table = tomllib.loads(manifest.read_text())
    edit(table)
    manifest.write_text(tomli_w.dumps(table))


def rehash(folder: Path) -> None:
    def edit(table: dict[str, Any]) -> None:
        for name in table["files"]:
            table["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()

    change(folder, edit)
