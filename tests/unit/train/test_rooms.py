"""The rooms of `train` import in one direction: data ← model ← evaluation ← bundle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TRAIN = Path(__file__).resolve().parents[3] / "train"
ROOMS = ("data", "model", "evaluation", "bundle")
FILES = sorted(p for room in ROOMS for p in (TRAIN / room).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(TRAIN)))
def test_a_room_imports_only_itself_and_earlier_rooms(path: Path) -> None:
    allowed = ROOMS[: ROOMS.index(path.relative_to(TRAIN).parts[0]) + 1]
    imported = [
        node.module.split(".")[2]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.startswith("speech_emotion.train.")
    ]
    assert set(imported) <= set(allowed)
