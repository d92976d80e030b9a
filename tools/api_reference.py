"""docs/API.md, made from docstrings and signatures: python -m tools.api_reference > docs/API.md"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import FunctionType

ROOT = Path(__file__).resolve().parent.parent

HEAD = """\
# Python interface

<!-- Made by `python -m tools.api_reference > docs/API.md`; do not edit. -->

Promised names, importable from `speech_emotion`. They change only with a line in
[CHANGELOG.md](../CHANGELOG.md). `Results` is the client of a running pipeline; importing it loads
pyzmq and msgpack, neither numpy nor pydantic. `Pipeline` analyses recordings in the program itself
([ARCHIVE.md](ARCHIVE.md)).

```python
from speech_emotion import Results

with Results("tcp://127.0.0.1:5555", "main") as results:
    for result in results:
        print(result.emotion, result.confidence, results.status().state.value)
```

```python
from speech_emotion import Pipeline

for message in Pipeline()("talk.wav"):
    print(message.start / message.rate, message.emotion)
```

"""
LIBRARY_HEAD = """\
# Library

Functions and classes of the stages, for programs that process sound without the pipeline. They are
not promised: they may change with any release.

"""
LIBRARY = (
    ("speech_emotion.common.bundle.manifest", ("load_bundle",)),
    ("speech_emotion.capture.offline", ("read_recording",)),
    ("speech_emotion.features.extractor", ("load_extractors", "windows_of")),
    ("speech_emotion.features.core", ("make_core", "normalize")),
    ("speech_emotion.infer.model", ("Model",)),
    ("speech_emotion.infer.decision", ("calibrate", "decide", "finish")),
    ("speech_emotion.common.security.curve", ("CurveClientKeys",)),
)


def page() -> str:
    """The whole page as Markdown."""
    package = importlib.import_module("speech_emotion")
    names = [name for name in package.__all__ if not name.startswith("__")]
    names.sort(key=lambda name: (name not in ("Results", "Pipeline"), name))
    parts = [HEAD, *(entry(getattr(package, name), name) for name in names), LIBRARY_HEAD]
    for module, functions in LIBRARY:
        for name in functions:
            value = getattr(importlib.import_module(module), name)
            parts.append(entry(value, f"{module}.{name}"))
    return "".join(parts).rstrip() + "\n"


def entry(value: object, name: str) -> str:
    """Heading, signature, docstring and members of a class or function."""
    text = f"## `{name}`\n\n"
    if isinstance(value, FunctionType):
        return f"{text}{signature(value, name.rpartition('.')[2])}{docstring(value)}"
    assert isinstance(value, type)
    if issubclass(value, enum.Enum):
        members = ", ".join(f"`{one.name}` = `{one.value!r}`" for one in value)
        return f"{text}{docstring(value)}Members: {members}.\n\n"
    if dataclasses.is_dataclass(value):
        text += docstring(value)
        rows = [f"| `{f.name}` | `{f.type}` |" for f in dataclasses.fields(value)]
        text += "\n".join(["| field | type |", "|---|---|", *rows]).replace(" | None", " \\| None")
        return f"{text}\n\n{members_of(value)}"
    if not issubclass(value, Exception):
        text += signature(value, value.__name__)
    return f"{text}{docstring(value)}{members_of(value)}"


def members_of(value: type) -> str:
    """Public methods and properties that have a docstring."""
    text = ""
    for name, member in vars(value).items():
        plain = member.__func__ if isinstance(member, classmethod) else member
        if (name.startswith("_") and name != "__call__") or not getattr(plain, "__doc__", None):
            continue
        if isinstance(plain, property):
            text += f"### `{name}` (property)\n\n{docstring(plain)}"
        elif isinstance(plain, FunctionType):
            called = value.__name__.lower() if name == "__call__" else name
            text += f"### `{called}`\n\n{signature(plain, called)}{docstring(plain)}"
    return text


def signature(value: FunctionType | type, name: str) -> str:
    """The call as Python code, without `self`."""
    found = inspect.signature(value)
    kept = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    words = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(found.replace(parameters=kept)))
    words = re.sub(r"PosixPath\(([^)]*)\)", lambda match: f'"{place(match[1])}"', words)
    return f"```python\n{name}{words.removesuffix(' -> None')}\n```\n\n"


def place(path: str) -> str:
    return str(Path(path).relative_to(ROOT)) if Path(path).is_relative_to(ROOT) else path


def docstring(value: object) -> str:
    """The docstring as Markdown: sections become bold words, their rows a list."""
    lines: list[str] = []
    example = False
    for line in (inspect.getdoc(value) or "").splitlines():
        if example or line.startswith(">>> "):
            lines += [] if example else ["```pycon"]
            example = bool(line)
            lines.append(line if example else "```\n")
        elif re.fullmatch(r"[A-Z]\w+:", line):
            lines.append(f"**{line.removesuffix(':')}**\n")
        elif match := re.match(r"    (\*{0,2}\w+(?:, \w+)*)( \([^)]*\))?: (.*)", line):
            names = match[1].replace(", ", "`, `")
            lines.append(f"- `{names}`{match[2] or ''}: {match[3]}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    lines += ["```"] if example else []
    return textwrap.dedent("\n".join(lines)).strip() + "\n\n"


if __name__ == "__main__":
    sys.stdout.write(page())
