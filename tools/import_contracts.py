"""Check the import contracts of pyproject.toml: python -m tools.import_contracts

The rooms are links inside `speech_emotion` and have no `__init__.py`, which import-linter does not
follow. It reads a copy of the tree in which they are ordinary packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("speech_emotion", "bench", "tests", "tools")


def copy_packages(folder: Path) -> None:
    """Copy the Python files of all packages into a folder, each subfolder a regular package."""
    for package in PACKAGES:
        for source in python_files(ROOT / package):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        for path in [folder / package, *(folder / package).rglob("*")]:
            if path.is_dir():
                (path / "__init__.py").touch()


def python_files(folder: Path) -> list[Path]:
    """Python files of a folder and of the folders that it links to."""
    return [
        Path(place) / name
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]


def main() -> int:
    """Run import-linter on the copy; its exit code."""
    with tempfile.TemporaryDirectory() as name:
        copy_packages(Path(name))
        command: list[str | Path] = [Path(sys.executable).with_name("lint-imports")]
        command += [ROOT / "pyproject.toml", "--no-cache", *sys.argv[1:]]
        return subprocess.run(command, cwd=name, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
