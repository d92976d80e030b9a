"""Paths of the installed files, the same in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

import speech_emotion

PACKAGE = Path(__file__).resolve().parent.parent
"""Folder that holds the rooms: the root of a checkout, or the installed `speech_emotion` folder."""
IMPORT_ROOT = Path(*speech_emotion.__path__).parent
"""Folder that must be on a child process's module path to import `speech_emotion`."""
DEFAULT_BUNDLE = PACKAGE / "models" / "default"
MICROPHONE_PAGE = PACKAGE / "examples" / "microphone.html"
DEMO_CLIP = PACKAGE / "examples" / "demo.flac"
