"""A real headless browser with a fresh profile, for tests, measurements and screenshots."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""Debian's Chromium, or None if it is not installed."""
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def browser() -> Iterator[Any]:
    """Playwright's handle of a newly started Chromium."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "deploy/setup.sh dev installs Chromium"
    with tempfile.TemporaryDirectory(prefix="sep-browser-") as folder, sync_playwright() as api:
        launched = api.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=[*FLAGS, f"--disk-cache-dir={folder}"]
        )
        try:
            yield launched
        finally:
            launched.close()
