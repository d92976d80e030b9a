"""Real headless browsers with fresh profiles, for tests, measurements and screenshots."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""Debian's Chromium, or None if it is not installed."""
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
"""Debian's Firefox, or None if it is not installed."""
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BIDI = "moz-firefox"
"""Playwright's name of an unchanged Firefox, which it drives over WebDriver BiDi."""
BRIDGE = Path(__file__).with_name("firefox_bidi.py")


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


@contextmanager
def firefox(preferences: Mapping[str, str | float | bool] | None = None) -> Iterator[Any]:
    """Playwright's handle of a newly started Firefox.

    It ignores these options of a context: `color_scheme`, `forced_colors`, `bypass_csp` (which it
    does not need), and `has_touch`.

    Args:
        preferences: of about:config.
    """
    from playwright.sync_api import sync_playwright

    assert FIREFOX is not None, "deploy/setup.sh dev installs Firefox"
    with tempfile.TemporaryDirectory(prefix="sep-browser-") as folder, sync_playwright() as api:
        program = Path(folder, "firefox")
        command = shlex.join([sys.executable, str(BRIDGE), FIREFOX])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o700)
        launched = api.firefox.launch(
            channel=BIDI,
            executable_path=program,
            headless=True,
            firefox_user_prefs=dict(preferences or {}),
            env={**os.environ, "HOME": folder},  # it must belong to the user, and gets files
        )
        try:
            yield launched
        finally:
            launched.close()
