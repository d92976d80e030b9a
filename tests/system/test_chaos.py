"""Every fault of `make chaos`, a few times each; the whole table is in docs/RELIABILITY.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.__main__ import PARTS
from tests.support.pipelines import ROOT
from tests.support.pulse import installed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it")
@pytest.mark.parametrize("part", PARTS)
def test_the_bounds_are_kept(part: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos", "--quick", "--only", part),
            *("--json", str(tmp_path / "rows.json")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
