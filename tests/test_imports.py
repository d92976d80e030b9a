"""Arrows point one way: a running stage imports `common` and itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = {
    *("capture", "features", "infer", "common", "dashboard"),
    *("train", "bench", "tests", "supervisor"),
}
STAGES = ("capture", "features", "infer", "dashboard")
OFFLINE = "offline.py"
"""Modules of this name put the pure cores of several stages together; no running stage does."""


def imported(path: Path) -> set[str]:
    """Top-level packages of ours that a file imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names & OURS


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("**/*.py"))


@pytest.mark.parametrize(
    "path", [p for s in STAGES for p in modules(s)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_stage_imports_common_and_itself(path: Path) -> None:
    stage = path.relative_to(ROOT).parts[0]
    allowed = {"common", *(STAGES if path.name == OFFLINE else (stage,))}
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", modules("common"), ids=lambda p: p.name)
def test_common_imports_only_common(path: Path) -> None:
    assert imported(path) <= {"common"}


def test_the_supervisor_imports_only_common() -> None:
    assert imported(ROOT / "supervisor.py") == {"common"}


def test_offline_modules_are_imported_by_no_running_module() -> None:
    for stage in STAGES:
        for path in modules(stage):
            text = path.read_text()
            if path.name not in (OFFLINE, "__main__.py"):
                assert ".offline" not in text, path


def loaded(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after some code."""
    program = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


AUDIO = {"sounddevice", "soundfile", "soxr"}
HEAVY = {"librosa", "numba", "llvmlite", "sklearn", "pooch"}
PAGE = {"starlette", "uvicorn"}
RUNTIMES = {"ai_edge_litert", "tflite_runtime", "tensorflow"}


def test_the_supervisor_loads_nothing_heavy() -> None:
    assert not loaded("import supervisor") & (AUDIO | HEAVY | RUNTIMES | {"scipy", "numpy"})


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import capture.service, capture.__main__", HEAVY | RUNTIMES | {"scipy"}),
        ("import features.service, features.__main__", HEAVY | RUNTIMES | AUDIO | {"scipy"}),
        ("import infer.service, infer.__main__", HEAVY | AUDIO | {"scipy"}),
        ("import dashboard.recorder", PAGE | HEAVY | AUDIO | RUNTIMES | {"scipy", "numpy"}),
        ("import dashboard.__main__", HEAVY | AUDIO | RUNTIMES | {"scipy", "numpy"}),
    ],
)
def test_a_running_stage_loads_only_what_it_needs(code: str, forbidden: set[str]) -> None:
    assert not loaded(code) & forbidden


def test_loading_and_using_a_bundle_loads_neither_librosa_nor_numba() -> None:
    code = (
        "import numpy as np\n"
        "from common.bundle import DEFAULT_BUNDLE, load_bundle\n"
        "from features.windows import load_analyzers\n"
        "bundle = load_bundle(DEFAULT_BUNDLE)\n"
        "load_analyzers(bundle)().analyze(np.zeros(bundle.spec.window, np.float32))"
    )
    assert not loaded(code) & (HEAVY | AUDIO | {"scipy"})
