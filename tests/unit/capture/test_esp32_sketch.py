"""The sketch for an ESP32, compiled for this computer: it sends what is documented."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.pipelines import ROOT

SKETCH = ROOT / "examples" / "esp32" / "microphone" / "microphone.ino"
STANDINS = ROOT / "tests" / "data" / "arduino"
FRAMES = 320


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_sketch_sends_stamped_samples(tmp_path: Path) -> None:
    program, main = tmp_path / "sketch", tmp_path / "main.cpp"
    main.write_text(f'#include "{SKETCH}"\nint main() {{ setup(); for (;;) loop(); }}\n')
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{STANDINS}"]
    subprocess.run(["g++", *flags, str(main), "-o", str(program)], check=True)
    values = np.random.default_rng(1).integers(-(2**17), 2**17, 30 * FRAMES)  # 2 bits too loud
    given = (values << 14).astype("<i4").tobytes()
    done = subprocess.run([program], input=given, capture_output=True, check=True)
    assert done.stderr.decode() == "/kitchen?rate=16000&channels=1&stamps=1\n"
    expected = np.clip(values, -32768, 32767).astype("<i2").reshape(-1, FRAMES)
    rows = np.frombuffer(done.stdout, np.uint8).reshape(-1, 4 + 8 + 2 * FRAMES)
    assert set(np.ascontiguousarray(rows[:, :4]).view("<u4")[:, 0]) == {8 + 2 * FRAMES}
    stamps = np.ascontiguousarray(rows[:, 4:12]).view("<u8")[:, 0]
    turns = [*range(2, 9), *range(19, 30)]  # those in which the stand-in was connected
    assert stamps.tolist() == [FRAMES * turn for turn in turns]
    np.testing.assert_array_equal(np.ascontiguousarray(rows[:, 12:]).view("<i2"), expected[turns])
