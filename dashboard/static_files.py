"""The files of the live page."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).resolve().parent / "static"
"""HTML, CSS and JavaScript of the page; there is no build step."""
