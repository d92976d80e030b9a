"""`speech-emotion report` in a real browser: one file, no error, usable on a phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import soundfile

from tests.support.pipelines import BUNDLE, DEMO, command
from tools.browser import CHROMIUM, browser

pytest.importorskip("pyarrow")


pytestmark = pytest.mark.xdist_group("report")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    samples, rate = soundfile.read(DEMO, dtype="float32")
    for name, part in (("b.wav", samples), ("a.wav", samples[: 9 * rate]), ("c.wav", samples[:0])):
        soundfile.write(folder / name, part, rate)
    out = folder / "results.parquet"
    assert command("infer", folder, "--out", out, "--bundle", BUNDLE).returncode == 4
    done = command("report", out)
    assert done.returncode == 0, done.stderr
    return folder / "results.html"


def test_the_page_is_one_file(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)|@import|url\(", text)
    assert "holds no samples" in text
    assert command("report", page.with_suffix(".parquet")).returncode == 2  # it is kept
    assert command("report", page.with_suffix(".parquet"), "--force").returncode == 0
    assert page.read_text() == text  # the same bytes


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it")
def test_the_page_in_a_browser(page: Path) -> None:
    with browser() as chromium:
        tab = chromium.new_page(viewport={"width": 360, "height": 800})
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(page.as_uri())
        names = tab.locator("td.name").all_inner_texts()
        assert names == ["a.wav", "b.wav", "c.wav"]
        assert tab.locator("td.line svg").count() == 2
        assert tab.locator("td.line rect").count() > 4
        # The table scrolls in its own box; the page does not.
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        tab.get_by_role("button", name="Length").click()
        assert tab.locator("td.name").all_inner_texts() == ["c.wav", "a.wav", "b.wav"]
        tab.get_by_role("button", name="Length").click()
        assert tab.locator("td.name").all_inner_texts() == ["b.wav", "a.wav", "c.wav"]
        assert said == []
