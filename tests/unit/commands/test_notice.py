"""The sign for the door: it says what the configuration does, in every language, on one page."""

from __future__ import annotations

import datetime
import html.parser
import re
import string
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.commands.notice import LANGUAGES, main, own_language, read_texts, sign
from speech_emotion.common.config.load import load_config
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import UserError
from tools.browser import CHROMIUM, browser

TODAY = datetime.date(2026, 11, 27)
LABELS = ("angry", "happy", "neutral", "sad")
FULL: dict[str, Any] = {
    "ring": {"seconds": 22},
    "record": "/var/lib/sep/recordings",
    "history": {"file": "/var/lib/sep/history.sqlite", "days": 1},
    "audit": {"file": "/var/lib/sep/audit.jsonl"},
    "mute": {
        "switch": "/sys/class/gpio/gpio17/value",
        "quiet_hours": [
            {"begin": "22:00", "end": "07:00"},
            {"begin": "13:00", "end": "14:30", "days": ["sun", "sat"]},
        ],
    },
    "light": {"led": "ACT"},
    "dashboard": {"listen": "0.0.0.0:8765", "token": "0123456789abcdef"},
    "notice": {
        "controller": "Müller & Söhne <GmbH>",
        "contact": "privacy@example.org",
        "purpose": "A lamp follows the voices {here}",
        "place": "Room {2}",
    },
}


def config(**tables: Any) -> Config:
    return load_config(None, {**tables})


def text_of(document: str) -> str:
    """What a reader sees, on one line."""

    class Reader(html.parser.HTMLParser):
        found = ""
        hidden = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
            self.hidden = tag == "style"

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                self.found += f" {data}"

    reader = Reader()
    reader.feed(document)
    return re.sub(r"\s+", " ", reader.found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_every_text(language: str) -> None:
    english, texts = read_texts("en"), read_texts(language)
    extra = {"seconds_few", "hours_few", "days_few"} if language == "pl" else set()
    assert set(texts) == set(english) | extra
    assert set(texts["labels"]) == set(english["labels"])
    assert len(texts["days"]) == 7
    for key, text in texts.items():
        if isinstance(text, str):
            fields = [name for _, name, _, _ in string.Formatter().parse(text) if name]
            expected = [n for _, n, _, _ in string.Formatter().parse(english.get(key, text)) if n]
            assert fields == expected, key
            assert text.strip() == text or key == "fill"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("tables", [{}, FULL], ids=["plain", "full"])
def test_a_sign_has_no_open_field(language: str, tables: dict[str, Any]) -> None:
    texts, said = read_texts(language), text_of(sign(config(**tables), LABELS, [language], TODAY))
    assert texts["title"] in said
    assert "50" in texts["law"]
    assert texts["law"] in said
    assert "2026-11-27" in said
    assert ", ".join(texts["labels"][label] for label in LABELS) in said
    assert not re.search(r"\{[a-z_]+\}", said.replace("{here}", ""))


def test_what_is_kept_and_shared_is_named() -> None:
    plain = text_of(sign(config(), LABELS, ["en"], TODAY))
    assert "the last 30 seconds in memory only" in plain
    assert "Estimates: not stored." in plain
    assert "Nothing is sent over a network." in plain
    assert plain.count("Please fill in") == 2
    assert "muted: 2" not in plain
    full = text_of(sign(config(**FULL), LABELS, ["en"], TODAY))
    for said in (
        *("Sound IS RECORDED and stored.", "Sound is recorded", "1 day, then deleted"),
        *("Who muted, unmuted or opened it is logged.", "can be opened from the network"),
        *("There is a switch", "A light is on exactly while it listens"),
        *("22:00–07:00 (every day); 13:00–14:30 (Sat, Sun)", "Müller & Söhne <GmbH>"),
        *("privacy@example.org", "A lamp follows the voices {here}", "in Room {2} listens"),
    ):
        assert said in full, said
    for not_said in ("Nothing is sent", "in memory only", "not stored", "Please fill in"):
        assert not_said not in full
    assert "<GmbH>" not in sign(config(**FULL), LABELS, ["en"], TODAY)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sound_of_a_review_is_named(language: str) -> None:
    texts = read_texts(language)
    kept = config(review={"file": "/r.sqlite", "hours": 24})
    said = text_of(sign(kept, LABELS, [language], TODAY))
    assert texts["recorded_badge"] in said
    assert texts["sound_review"].format(hours=f"24 {_hours(texts)}") in said
    assert texts["sound_memory"].partition("{")[0] not in said


def _hours(texts: dict[str, Any]) -> str:
    """The form for 24."""
    return str(texts.get("hours_few", texts["hours_many"]))


def test_results_in_the_network_are_named(tmp_path: Path) -> None:
    opened = config(results="tcp://0.0.0.0:5555", curve={"unprotected": True})
    assert "Every device in the same network." in text_of(sign(opened, LABELS, ["en"], TODAY))
    keys = {"secret": str(tmp_path / "a"), "allowed": str(tmp_path)}
    locked = config(results="tcp://0.0.0.0:5555", curve=keys)
    assert "that have a key." in text_of(sign(locked, LABELS, ["en"], TODAY))
    host = {"hub": "tcp://0.0.0.0:1", "features": "tcp://0.0.0.0:2", **keys}
    assert "another device" in text_of(sign(config(infer_host=host), LABELS, ["en"], TODAY))
    proxied = config(dashboard={"listen": "127.0.0.1:1", "base_url": "https://example.org/"})
    assert "from the network" in text_of(sign(proxied, LABELS, ["en"], TODAY))


@pytest.mark.parametrize(
    ("days", "words"), [(1, "1 dzień"), (3, "3 dni"), (14, "14 dni"), (0.5, "1 dzień")]
)
def test_polish_counts(days: float, words: str) -> None:
    kept = config(history={"file": "/h.sqlite", "days": days})
    said = text_of(sign(kept, LABELS, ["pl"], TODAY)).replace("\N{NO-BREAK SPACE}", " ")
    assert words in said
    for seconds, unit in ((22, "22 sekundy"), (25, "25 sekund"), (12, "12 sekund")):
        said = text_of(sign(config(ring={"seconds": seconds}), LABELS, ["pl"], TODAY))
        assert f"{unit}." in said.replace("\N{NO-BREAK SPACE}", " ")


def test_other_labels_are_named_or_left_out() -> None:
    assert "calm, ecstatic" in text_of(sign(config(), ["calm", "ecstatic"], ["en"], TODAY))
    assert "estimates an emotion." in text_of(sign(config(), [], ["en"], TODAY))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it")
def test_each_language_fills_one_page_of_a4(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    path = tmp_path / "sign.html"
    with browser() as chromium:
        page = chromium.new_page()
        for tables in ({}, FULL):
            path.write_text(sign(config(**tables), LABELS, list(LANGUAGES), TODAY), "utf-8")
            page.goto(path.as_uri())
            pages = re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))
            assert len(pages) == len(LANGUAGES)
            sizes = page.locator("section").evaluate_all(
                "all => all.map((e) => [e.scrollWidth - e.clientWidth, e.lang])"
            )
            assert sizes == [[0, language] for language in LANGUAGES]


def test_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, box = tmp_path / "sign.html", tmp_path / "box.toml"
    box.write_text("[notice]\ncontact = 'from the file'\nplace = 'Hall'\n")
    words = ["--config", str(box), "--lang", "de", "--place", "Küche"]
    assert main([*words, "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    said = out.read_text("utf-8")
    assert "from the file" in said
    assert "Küche" in said
    assert "Hall" not in said
    assert main(words) == 0
    assert capsys.readouterr().out == said
    with pytest.raises(UserError, match="cannot be written"):
        main([*words, "--out", str(tmp_path / "no" / "folder.html")])
    for name, code in (("de_AT.UTF-8", "de"), ("pl_PL", "pl"), ("C", "en"), ("ja_JP", "en")):
        monkeypatch.setenv("LC_ALL", name)
        assert own_language() == code
