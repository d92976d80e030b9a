"""Write every part of the documents that a command makes: python -m tools.documents [--check]"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tools import api_reference, config_reference, openapi_document, tree

ROOT = Path(__file__).resolve().parent.parent

PAGES: dict[str, Callable[[], str]] = {
    "docs/API.md": api_reference.page,
    "docs/CONFIGURATION.md": config_reference.page,
    "dashboard/api/openapi.json": openapi_document.page,
}
"""Whole pages."""
PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/ARCHITECTURE.md", "python -m tools.tree"): tree.text,
    ("docs/API_HTTP.md", "python -m tools.openapi_document --tables"): openapi_document.tables,
}
"""Parts between `<!-- begin COMMAND -->` and `<!-- end COMMAND -->`, by page and command."""


def documents() -> dict[Path, str]:
    """Each page that a command makes at least in part, with its present content."""
    pages = {ROOT / name: make() for name, make in PAGES.items()}
    for (name, command), make in PARTS.items():
        path = ROOT / name
        before, begin, rest = pages.get(path, path.read_text()).partition(
            f"<!-- begin {command} -->\n"
        )
        _, end, after = rest.partition(f"<!-- end {command} -->\n")
        if not end:
            raise SystemExit(f"{name}: has no marks for {command}")
        pages[path] = f"{before}{begin}\n{make()}\n{end}{after}"
    return pages


def main(words: list[str]) -> int:
    """Write the pages; with --check only report those that would change."""
    changed = [path for path, text in documents().items() if not same(path, text)]
    for path in changed:
        if "--check" not in words:
            path.write_text(documents()[path])
        print(path.relative_to(ROOT), file=sys.stderr)
    return int(bool(changed) and "--check" in words)


def same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
