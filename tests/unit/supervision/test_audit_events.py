"""What the audit log says of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from speech_emotion.common.config.model import Config
from speech_emotion.supervision.privacy import audit_events


def test_no_password_of_a_source_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[dict[str, Any]] = []
    writer = audit_events.open_audit(Config.model_validate({}).audit)
    monkeypatch.setattr(writer, "note", lambda _, **details: noted.append(details))
    sources = [
        {"name": "door", "source": "rtsp://user:secret@cam/1"},
        {"name": "radio", "source": "https://radio/live?token=secret"},
    ]
    audit_events.note_start(writer, Config.model_validate({"stream": sources}), "b")
    assert "secret" not in str(noted)
    assert noted[0]["sources"]["door"] == "rtsp://cam/1"
