"""rich's `Text` for names and labels from outside."""

from __future__ import annotations

from typing import Self

from rich.style import StyleType
from rich.text import Text

from speech_emotion.common.errors import printable


class SafeText(Text):
    """Text with its control characters escaped: rich would pass terminal escapes through."""

    def __init__(self, text: str = "", style: StyleType = "", **options: object) -> None:
        super().__init__(printable(text), style, **options)  # type: ignore[arg-type]

    def append(self, text: Text | str, style: StyleType | None = None) -> Self:
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self
