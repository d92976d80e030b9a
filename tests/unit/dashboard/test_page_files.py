"""The service worker keeps each file of the page, and nothing else."""

from __future__ import annotations

import json
import re

from tests.support.pages import STATIC

OTHERS = {"index.html", "shell.js", "token.css", "token.html", "vendor/uPlot-LICENSE"}
REVIEW = {"review.html", "review.css", "review.js", "review-adapt.js"}
FLEET = {"fleet/page.html", "fleet/page.css", "fleet/page.js"}
"""Pages of their own, which need their server."""


def test_the_service_worker_keeps_each_file_of_the_page() -> None:
    listed = re.search(r"const SHELL = \[(.*?)\]", (STATIC / "shell.js").read_text(), re.DOTALL)
    assert listed is not None
    files = {str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()}
    assert sorted(re.findall(r'"([^"]+)"', listed.group(1))) == sorted(
        {"./", *files} - OTHERS - REVIEW - FLEET
    )


def test_the_page_preloads_its_modules() -> None:
    html = (STATIC / "index.html").read_text()
    preloaded = set(re.findall(r'modulepreload" href="([^"]+)"', html))
    assert all((STATIC / name).is_file() for name in preloaded)
    needed, waiting = set(), ["page.js"]
    while waiting:
        name = waiting.pop()
        source = (STATIC / name).read_text()
        for found in re.findall(r'(?:from|import) "(\.[^"]+)"', source):
            path = (STATIC / name).parent.joinpath(found).resolve().relative_to(STATIC.resolve())
            if str(path) not in needed:
                needed.add(str(path))
                waiting.append(str(path))
    assert needed - {"guide/theme.js"} == preloaded - {"page.js"}


def test_the_manifest_makes_the_page_installable() -> None:
    manifest = json.loads((STATIC / "manifest.webmanifest").read_text())
    assert manifest["display"] == "standalone"
    assert (STATIC / manifest["start_url"]).is_dir()
    assert all((STATIC / icon["src"]).is_file() for icon in manifest["icons"])
