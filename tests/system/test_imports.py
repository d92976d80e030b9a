"""What a process loads: nothing that it does not need, and no module under two names.

Which room may import which is a contract of import-linter (pyproject.toml), checked by `make lint`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import speech_emotion
from tests.support.pipelines import ROOT

AUDIO = {"sounddevice", "soundfile", "soxr"}
HEAVY = {"librosa", "numba", "llvmlite", "sklearn", "pooch"}
PAGE = {"starlette", "uvicorn"}
RUNTIMES = {"ai_edge_litert", "tflite_runtime", "tensorflow"}
P = "speech_emotion"


def loaded(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after some code."""
    program = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


def test_the_supervisor_loads_nothing_heavy() -> None:
    heavy = AUDIO | HEAVY | RUNTIMES | {"scipy", "numpy"}
    assert not loaded(f"import {P}.supervisor") & heavy


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (f"import {P}.capture.service, {P}.capture.__main__", HEAVY | RUNTIMES | {"scipy"}),
        (f"import {P}.features.service, {P}.features.__main__", HEAVY | RUNTIMES | AUDIO),
        (f"import {P}.infer.service, {P}.infer.__main__", HEAVY | AUDIO | {"scipy"}),
        (
            f"import {P}.dashboard.history_writer",
            PAGE | HEAVY | AUDIO | RUNTIMES | {"scipy", "numpy"},
        ),
        (
            f"import {P}.alerts.service, {P}.alerts.__main__",
            PAGE | HEAVY | AUDIO | RUNTIMES | {"scipy", "numpy", "paho"},
        ),
        (f"import {P}.dashboard.review.service", PAGE | HEAVY | AUDIO | RUNTIMES | {"scipy"}),
        (
            f"import {P}.fleet.service, {P}.fleet.__main__",
            PAGE | HEAVY | AUDIO | RUNTIMES | {"scipy", "numpy", "pyarrow", "pandas"},
        ),
        (
            f"import {P}.train.__main__, {P}.train.personal.adaptation",
            PAGE | HEAVY | {"tensorflow", "keras", "tqdm", "scipy"},
        ),
        (f"import {P}.dashboard.__main__", HEAVY | AUDIO | RUNTIMES | {"scipy", "numpy"}),
    ],
)
def test_a_process_loads_only_what_it_needs(code: str, forbidden: set[str]) -> None:
    assert not loaded(code) & forbidden


LIBRARY = {"Pipeline", "Stream"}
"""Names that load what the stages of the pipeline load."""


@pytest.mark.parametrize("name", sorted(set(speech_emotion.__all__) - LIBRARY))
def test_the_client_loads_pyzmq_and_msgpack_only(name: str) -> None:
    packages = loaded(f"from {P} import {name}") - loaded("") - sys.stdlib_module_names
    cython = {package for package in packages if "cython" in package}
    assert packages - cython <= {P, "zmq", "msgpack", "_cffi_backend"}


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_the_library_loads_no_pandas_and_no_librosa(name: str) -> None:
    assert not loaded(f"from {P} import {name}") & (HEAVY | PAGE | {"pandas", "pyarrow", "scipy"})


def test_loading_and_using_a_bundle_loads_neither_librosa_nor_numba() -> None:
    code = (
        "import numpy as np\n"
        f"from {P}.common.bundle.manifest import load_bundle\n"
        f"from {P}.common.paths import DEFAULT_BUNDLE\n"
        f"from {P}.features.extractor import load_extractors\n"
        "bundle = load_bundle(DEFAULT_BUNDLE)\n"
        "load_extractors(bundle)().analyze(np.zeros(bundle.spec.window, np.float32))"
    )
    assert not loaded(code) & (HEAVY | AUDIO | {"scipy"})


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    "words",
    [
        ["supervisor.py", "--print-config"],
        ["-m", "capture", "--help"],
        ["-m", "features", "--help"],
        ["-m", "infer", "examples/demo.flac", "--json"],
        ["-m", "speech_emotion", "run", "--print-config"],
    ],
)
def test_no_file_is_loaded_under_two_names(words: list[str]) -> None:
    """The rooms are links inside `speech_emotion`: a short import would load a module again."""
    program = (
        "import atexit, json, os, runpy, sys\n"
        "def report():\n"
        "    files = [os.path.realpath(m.__file__) for m in sys.modules.values()\n"
        "             if getattr(m, '__file__', None)]\n"
        "    twice = sorted({f for f in files if files.count(f) > 1})\n"
        "    print(json.dumps([f for f in twice if f.startswith(os.getcwd())]), file=sys.stderr)\n"
        "atexit.register(report)\n"
        "words = sys.argv[1:]\n"
        "sys.argv = words[1:] if words[0] == '-m' else words\n"
        "sys.path.insert(0, os.getcwd())\n"
        "if words[0] == '-m':\n"
        "    runpy.run_module(words[1], run_name='__main__', alter_sys=True)\n"
        "else:\n"
        "    runpy.run_path(words[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert json.loads(done.stderr.strip().splitlines()[-1]) == []


FOLDERS = [
    folder
    for folder in ROOT.iterdir()
    if folder.is_dir() and not folder.name.startswith(".") and folder.name != "build"
]
EXTENSIBLE = {"abc", "enum", "typing", "logging", "string"}
"""Modules of the standard library whose classes are made to be subclassed."""


def test_no_private_name_is_added_to_a_class_of_the_standard_library() -> None:
    """A later Python may use the same name: `Thread` has had a `_handle` of its own since 3.13."""
    sources = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))]
    assert len(sources) > 200
    for path in sources:
        _check_standard_classes(path)


def _check_standard_classes(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = dict(_standard_names(tree))
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for base in cls.bases:
            module = imported.get(ast.unparse(base).partition(".")[0], "").partition(".")[0]
            if not module or module in EXTENSIBLE:
                continue
            assert not ast.unparse(base).endswith("Thread"), f"{path}: {cls.name} is a Thread"
            assert not set(_private_names(cls)), f"{path}: {cls.name}({ast.unparse(base)})"


def _standard_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Names that a module imports from the standard library → the module they are from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [
                (alias.asname or alias.name.partition(".")[0], alias.name) for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [(alias.asname or alias.name, node.module) for alias in node.names]
        else:
            continue
        yield from (pair for pair in names if pair[1].partition(".")[0] in sys.stdlib_module_names)


def _private_names(cls: ast.ClassDef) -> Iterator[str]:
    """Methods and attributes of a class that begin with one underscore."""
    for node in ast.walk(cls):
        name = ""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        if re.match("_[^_]", name):
            yield name
