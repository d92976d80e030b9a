"""The texts of the page: one catalogue, complete in each language, and no text outside of it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from speech_emotion.dashboard.settings.fields import fields
from tests.support.pages import STATIC

LANGUAGES = {path.stem: path for path in sorted((STATIC / "languages").glob("*.js"))}
PAGES = {
    "index.html": "",
    "review.html": "review",
    "settings.html": "settings",
    "fleet/page.html": "",
}
"""Page → folder of the texts that only it has."""
SCRIPTS = [
    path
    for path in sorted(STATIC.rglob("*.js"))
    if not {"languages", "vendor"} & set(path.relative_to(STATIC).parts)
]
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", re.DOTALL)
NAMES = {"End", "Enter", "Home", "English", "Deutsch", "Français", "Español", "Polski", "Escape"}
"""Words that are no text of the page: keys, and each language's name in itself."""
NO_TEXT = {*NAMES, "given up", "skip", "Escape"}
"""Further literals of the scripts that are not shown: a state of a delivery."""
NO_WORDS = re.compile(r'(querySelector(All)?\(|closest\(|font: |class: )"[^"]*"')
"""Selectors, fonts and classes."""
UNITS = {"dBFS", "CSV", "min", "5 min", "Shift + ← →", "1 h", "6 h", "Speech emotion", *NAMES}
"""What is the same in each language."""


def catalogue(path: Path) -> dict[str, str]:
    body = re.search(r"export default (\{.*\});", path.read_text(), re.DOTALL)
    assert body is not None
    table: dict[str, str] = json.loads(re.sub(r",\s*\}$", "}", body.group(1)))
    return table


CATALOGUES = {
    folder: {path.stem: catalogue(path) for path in (STATIC / "languages" / folder).glob("*.js")}
    for folder in PAGES.values()
}
ENGLISH = {key: text for tables in CATALOGUES.values() for key, text in tables["en"].items()}


@pytest.mark.parametrize("folder", CATALOGUES)
@pytest.mark.parametrize("language", LANGUAGES)
def test_each_language_has_every_text_and_placeholder(language: str, folder: str) -> None:
    english, own = CATALOGUES[folder]["en"], CATALOGUES[folder][language]
    assert list(own) == list(english)
    for key, text in own.items():
        assert text.strip(), key
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(
            re.findall(r"\{\w+\}", english[key])
        ), key
    if language != "en":
        same = [key for key in own if own[key] == english[key] and re.search(r"[a-z] \w", own[key])]
        assert same == []


def test_settings_are_described_as_in_the_configuration() -> None:
    waiting, known = fields({}), set()
    while waiting:
        one = waiting.pop()
        waiting += one.fields
        key = re.sub(r"^.*(?=quiet_hours\.)", "", one.key)
        assert f"settings.name.{key}" in ENGLISH or one.kind == "rows"
        if one.kind != "rows":
            assert ENGLISH[f"settings.about.{key}"] == one.description
            known.add(f"settings.about.{key}")
    assert known == {key for key in ENGLISH if key.startswith("settings.about.")}


def test_the_switch_offers_each_language() -> None:
    offered = re.search(r"LANGUAGES = \{(.*?)\}", (STATIC / "text.js").read_text())
    assert offered is not None
    assert sorted(re.findall(r"(\w+):", offered.group(1))) == sorted(LANGUAGES)


class Page(HTMLParser):
    """Texts of a page with their keys."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str | None] = []
        self.keyed: list[tuple[str, str]] = []
        self.bare: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        table = dict(attrs)
        if tag not in ("meta", "link", "input", "path", "rect", "circle", "use", "br"):
            self.stack.append(table.get("data-t"))
        for name, attribute in {"label": "aria-label", "title": "title"}.items():
            key, text = table.get(f"data-t-{name}"), table.get(attribute)
            if text and key:
                self.keyed.append((key, text))
            elif text:
                self.bare.append(text)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        if self.stack:
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        text = data.strip()
        if not re.search(r"[^\W\d_]{2,}", text):
            return
        if self.stack and (key := self.stack[-1]) is not None:
            self.keyed.append((key, text))
        elif text not in UNITS:
            self.bare.append(text)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_english_texts_and_no_other(name: str) -> None:
    page = Page()
    page.feed((STATIC / name).read_text())
    assert page.bare == []
    assert [(key, text) for key, text in page.keyed if ENGLISH[key] != text] == []


def test_no_script_has_a_text_of_its_own() -> None:
    found = []
    for path in SCRIPTS:
        if path.name == "shell.js":  # paths only; it shows nothing
            continue
        source = NO_WORDS.sub("", COMMENT.sub("", path.read_text()))
        for match in LITERAL.finditer(source):
            text = re.sub(r"\$\{[^}]*\}", "", match.group(1) or match.group(2) or "")
            words = re.search(r"[^\W\d_.#>\]]{2,} [^\W\d_]{2,}", text)
            if (words or re.match(r"[A-Z][a-z]+$", text)) and text not in NO_TEXT:
                found.append((path.name, text))
    assert [one for _, one in found] == []


def test_every_key_is_used_and_every_used_key_exists() -> None:
    used, prefixes = set(), set()
    page = Page()
    html = "".join((STATIC / name).read_text() for name in PAGES)
    page.feed(html)
    used |= {key for key, _ in page.keyed} | set(re.findall(r'data-t-\w+="([^"]+)"', html))
    source = "\n".join(path.read_text() for path in SCRIPTS)
    for match in LITERAL.finditer(source):
        text = match.group(1) or match.group(2) or ""
        if "${" in text and (prefix := text.split("${")[0]).endswith("."):
            prefixes.add(prefix)
    used |= {key for key in ENGLISH if f'"{key}"' in source}  # also within a template
    called = re.findall(r'\b(?:t|parts|known)\("([^"]+)"', source)
    assert [key for key in called if key not in ENGLISH] == []
    left = [key for key in ENGLISH if key not in used and not key.startswith(tuple(prefixes))]
    assert left == []
