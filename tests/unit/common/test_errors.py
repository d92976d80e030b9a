"""Texts with control characters from outside reach a terminal escaped, on one line."""

from __future__ import annotations

import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from speech_emotion.common.errors import DeviceError, UserError, printable
from speech_emotion.common.safe_text import SafeText
from speech_emotion.supervision.console.log_lines import LogLines
from speech_emotion.supervision.console.view import BackgroundView, PlainView

TITLE = "\x1b]0;title\x07 \x9b31m red\r\nnext \u202e \u2028"
ESCAPED = r"\x1b]0;title\x07 \x9b31m red\r\nnext \u202e \u2028"


@given(st.text())
def test_printable_text_is_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()
    assert (printable(text) == text) == text.isprintable()


def test_printable_keeps_letters_of_all_languages() -> None:
    text = "Küche, 台所, кухня – 20 °C"
    assert printable(text) == text


@pytest.mark.parametrize("kind", [UserError, DeviceError])
def test_an_error_is_one_printable_line(kind: type[Exception]) -> None:
    assert str(kind(f"{TITLE}: no such file")) == f"{ESCAPED}: no such file"


def test_rich_text_passes_no_escape_sequence() -> None:
    output = io.StringIO()
    text = SafeText(TITLE, "bold", no_wrap=True).append(TITLE)
    Console(file=output, width=400, color_system=None).print(text)
    assert output.getvalue().rstrip() == ESCAPED + ESCAPED


class Recorded(PlainView):
    """A view that keeps its lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


def test_log_lines_are_escaped_and_keep_their_line_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    view, woken = Recorded(), threading.Event()
    lines = LogLines(woken.set)
    lines.write("capture: device \x1b[2J lost\nTraceback")
    with BackgroundView(view) as background:
        lines.release(background)
        background.settle()
    assert view.lines == [r"capture: device \x1b[2J lost", "Traceback"]
