"""The distribution speech-emotion-client: the same files, alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import speech_emotion
from tests.support.pipelines import ROOT

CLIENT = ROOT / "deploy" / "client"
LIBRARY = ("Pipeline", "Stream")
"""Names that need the whole pipeline."""
IMPORT_ALL = (
    "import speech_emotion\n"
    f"names = set(speech_emotion.__all__) - {set(LIBRARY)}\n"
    "for name in names: getattr(speech_emotion, name)\n"
    "print(speech_emotion.__file__, speech_emotion.__version__, sep=chr(10))"
)


def test_its_files_are_links_to_those_of_the_pipeline() -> None:
    everything = (CLIENT / "speech_emotion").rglob("*")
    # Other tests import its modules meanwhile.
    paths = [path for path in everything if "__pycache__" not in path.parts]
    files = [path for path in paths if path.is_file()]
    assert files
    for path in files:
        assert path.is_symlink(), path
        assert path.resolve(strict=True).is_relative_to(ROOT)
        assert not path.resolve().is_relative_to(CLIENT)


def test_its_modules_import_nothing_that_is_not_in_it() -> None:
    code = f"import sys; sys.path.insert(0, {str(CLIENT)!r})\n{IMPORT_ALL}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    file, version = done.stdout.splitlines()
    assert Path(file).is_relative_to(CLIENT)
    assert version == speech_emotion.__version__


@pytest.mark.parametrize("name", LIBRARY)
def test_a_name_of_the_library_says_which_package_it_needs(name: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(CLIENT)!r})\nfrom speech_emotion import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: {name} needs the package speech-emotion-pipeline"


def test_its_dependencies_are_those_of_the_pipeline() -> None:
    projects = [
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in (CLIENT, ROOT)
    ]
    assert set(projects[0]["dependencies"]) <= set(projects[1]["dependencies"])
    assert projects[0]["requires-python"] == projects[1]["requires-python"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_wheel_works_alone(tmp_path: Path) -> None:
    """Needs a package index: the wheel is built, and installed in an empty environment."""
    shutil.copytree(CLIENT, tmp_path / "client")  # the build leaves files in its folder
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path, tmp_path / "client"], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([*pip, "--quiet", "--python", python, "install", wheel], check=True)
    done = subprocess.run(
        [*pip, "--python", python, "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    packages = {line.partition("==")[0].lower() for line in done.stdout.splitlines()}
    assert packages == {"speech-emotion-client", "pyzmq", "msgpack"}
    done = subprocess.run(
        [python, "-I", "-c", IMPORT_ALL], capture_output=True, text=True, check=True, cwd="/"
    )
    assert Path(done.stdout.split()[0]).is_relative_to(tmp_path / "venv")
