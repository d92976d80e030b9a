"""The files of the live page."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).resolve().parent / "static"
"""The page itself: HTML, CSS and JavaScript as they are, without a build step."""
