"""What a person sees: the live page, and the history behind it. Plain subscribers, both."""

from pathlib import Path

STATIC = Path(__file__).resolve().parent / "static"
"""The page itself: HTML, CSS and JavaScript as they are, without a build step."""
