"""The wheel: what it installs, and that it works outside the checkout.

By default the new environment sees the packages of the one that runs the tests, all but this
project. SEP_EMPTY_VENV=1 (`make test-wheel`) installs everything from the package index instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import speech_emotion
from tests.support.pipelines import DEMO, ROOT
from tools.ports import free_port

EMPTY = os.environ.get("SEP_EMPTY_VENV") == "1"
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
NEEDED = [
    "__init__.py",
    "__main__.py",
    "common/client/results.py",
    "dashboard/static/index.html",
    "dashboard/static/page.js",
    "examples/demo.flac",
    "models/classic/model.tflite",
    "models/default/LICENSE",
    "models/default/bundle.toml",
    "models/default/model.tflite",
    "models/small/model.tflite",
    "py.typed",
    "supervisor.py",
    "train/recipes/small.toml",
]
pytestmark = [pytest.mark.timeout(900 if EMPTY else 240), pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout by way of the source distribution."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "checkout"
    # Hidden folders are the work of tools, which write to them meanwhile.
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "absent from the `packages`" not in done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment, outside the checkout, that has the wheel."""
    venv = tmp_path_factory.mktemp("a place") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    install: list[str | Path] = [venv / "bin" / "pip", "install", "--quiet"]
    if EMPTY:
        install += ["-c", CONSTRAINTS, f"{wheel}[dashboard]"]
    else:
        install += ["--no-deps", wheel]
        site = next(venv.glob("lib/python*/site-packages"))
        (site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    subprocess.run(install, check=True)
    return venv / "bin"


def run(installed: Path, *command: str, code: int = 0) -> str:
    """Standard output of a command of the environment, started far from the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [installed / command[0], *command[1:]],
        capture_output=True,
        text=True,
        cwd=installed,
        env=environment,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_one_top_level_name_and_all_that_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "speech_emotion"
    }
    assert {f"speech_emotion/{name}" for name in NEEDED} <= set(names)
    modules = subprocess.run(
        ["git", "ls-files", "*.py"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    rooms = (
        "alerts",
        "capture",
        "common",
        "dashboard",
        "features",
        "fleet",
        "infer",
        "supervision",
        "train",
    )
    shipped = {f"speech_emotion/{name}" for name in modules if name.partition("/")[0] in rooms}
    shipped |= {name for name in modules if name.startswith("speech_emotion/")}
    assert shipped - set(names) == set()
    assert not [name for name in names if "__pycache__" in name]


def test_the_version_is_that_of_the_changelog(wheel: Path) -> None:
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == speech_emotion.__version__
    assert f"-{newest[1]}-" in wheel.name


def test_commands_and_client_of_an_installed_wheel(installed: Path, tmp_path: Path) -> None:
    version = run(installed, "speech-emotion", "--version")
    assert version == f"speech-emotion {speech_emotion.__version__}\n"
    endpoint = f"ipc://{tmp_path}/results"
    # test_demo.py tries the usual ports, perhaps at the same time.
    page = f"127.0.0.1:{free_port()}"
    words = ("--speed", "max", "--results", endpoint, "--dashboard", page)
    run(installed, "speech-emotion", "demo", *words)
    lines = run(installed, "speech-emotion", "infer", str(DEMO), "--json").splitlines()
    assert {json.loads(line)["state"] for line in lines if '"state"' in line} >= {"speech"}
    code = "import speech_emotion as s; print(s.__file__); [getattr(s, n) for n in s.__all__]"
    place = run(installed, "python", "-c", code).strip()
    assert Path(place).is_relative_to(installed.parent)
