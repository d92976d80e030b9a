"""The command `speech-emotion`: its help loads next to nothing."""

from __future__ import annotations

import subprocess
import sys

from tests.support.pipelines import ROOT

MODULES_OF_HELP = 45
"""More than this beyond a bare interpreter costs more than 0.15 s of CPU on a small board."""


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    program = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_no_package_and_few_modules() -> None:
    code = (
        "import sys; sys.argv = ['speech-emotion', '--help']; "
        "from speech_emotion.__main__ import main; assert main() == 0"
    )
    loaded = modules_after(code) - modules_after("pass")
    ours = {name for name in loaded if name.startswith("speech_emotion")}
    names = {"__main__", "common", "common.errors", "common.linux", "common.linux.entry"}
    names |= {"common.source_address"}  # errors show no password of an URL
    assert ours == {"speech_emotion", *(f"speech_emotion.{name}" for name in names)}
    assert not loaded & {"zmq", "numpy", "pydantic", "msgpack", "rich", "argparse", "asyncio"}
    assert len(loaded) <= MODULES_OF_HELP, sorted(loaded)
