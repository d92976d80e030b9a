"""Fixtures of the ring's tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.rings import (
    LABEL,
    ROOT,
    SHM,
    Script,
)


@pytest.fixture(autouse=True)
def _no_segment_is_left() -> Iterator[None]:
    yield
    assert not list(SHM.glob(f"*{LABEL}*"))


@pytest.fixture
def script() -> Iterator[Script]:
    """Start a Python process with the ring imported; `args` are its sys.argv[1:]."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        prelude = (
            "import sys\n"
            "from speech_emotion.common.ring.reader import *\n"
            "from speech_emotion.common.ring.writer import *\n"
            "from speech_emotion.common.ring.segment import *\n"
            "from speech_emotion.common.ring.layout import *\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", prelude + code, *map(str, args)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()
