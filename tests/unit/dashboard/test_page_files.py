"""The service worker keeps each file of the page, and nothing else."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.pages import STATIC

OTHERS = {"index.html", "shell.js", "token.css", "token.html", "vendor/uPlot-LICENSE"}
ONLINE = (
    *("review.html", "review/", "languages/review/"),
    *("settings.html", "settings/", "languages/settings/"),
    "fleet/",
)
"""Pages of their own, which need their server."""
PAGES = {
    "index.html": "page.js",
    "review.html": "review/review.js",
    "settings.html": "settings/settings.js",
}
"""Page → its script."""


def test_the_service_worker_keeps_each_file_of_the_page() -> None:
    listed = re.search(r"const SHELL = \[(.*?)\]", (STATIC / "shell.js").read_text(), re.DOTALL)
    assert listed is not None
    files = {str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()}
    assert sorted(re.findall(r'"([^"]+)"', listed.group(1))) == sorted(
        {"./", *(one for one in files if not one.startswith(ONLINE))} - OTHERS
    )


@pytest.mark.parametrize("page", PAGES)
def test_a_page_preloads_its_modules(page: str) -> None:
    html = (STATIC / page).read_text()
    preloaded = set(re.findall(r'modulepreload" href="([^"]+)"', html))
    assert all((STATIC / name).is_file() for name in preloaded)
    needed, waiting = set(), [PAGES[page]]
    while waiting:
        name = waiting.pop()
        source = (STATIC / name).read_text()
        for found in re.findall(r'(?:from|import) "(\.[^"]+)"', source):
            path = (STATIC / name).parent.joinpath(found).resolve().relative_to(STATIC.resolve())
            if str(path) not in needed:
                needed.add(str(path))
                waiting.append(str(path))
    assert needed - {"guide/theme.js"} == preloaded - {PAGES[page]}
    weight = sum((STATIC / name).stat().st_size for name in (page, PAGES[page], *needed))
    assert weight < 200_000


def test_the_live_page_loads_nothing_of_other_pages() -> None:
    html = (STATIC / "index.html").read_text()
    assert "settings/" not in html
    assert "review/" not in html


def test_the_manifest_makes_the_page_installable() -> None:
    manifest = json.loads((STATIC / "manifest.webmanifest").read_text())
    assert manifest["display"] == "standalone"
    assert (STATIC / manifest["start_url"]).is_dir()
    assert all((STATIC / icon["src"]).is_file() for icon in manifest["icons"])
