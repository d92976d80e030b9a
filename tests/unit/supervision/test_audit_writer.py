"""The thread of the audit log: order, bounds, a disk that fails."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.privacy.audit_log import verify
from speech_emotion.supervision.privacy import audit_writer
from speech_emotion.supervision.privacy.audit_writer import BURST, AuditWriter
from tests.support.pipelines import wait_until


def opened(path: Path) -> AuditWriter:
    return AuditWriter(path, max_bytes=1 << 20, keep=3)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_written_in_order(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    for n in range(50):
        writer.note("mute", number=n)
    writer.note("stop", code=0)
    writer.close()
    writer.close()
    assert [row.get("number") for row in records(path)] == [*range(50), None]
    assert verify(path).broken is None
    assert writer.dropped == 0


def test_an_end_without_a_stop_is_noted_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = opened(path)
    first.note("start")
    wait_until(lambda: len(records(path)) == 1, "the record")
    first.close()
    second = opened(path)
    second.note("stop")
    second.close()
    third = opened(path)
    third.close()
    assert [row["event"] for row in records(path)] == ["start", "no stop", "stop"]


def test_what_other_programs_cause_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    for n in range(1000):
        writer.note_bounded("page refused", address=f"10.0.0.{n % 250}")
    writer.note_bounded("page opened", address="10.0.0.1")
    writer.close()
    rows = records(path)
    assert [row["event"] for row in rows].count("page refused") == BURST + 1
    assert rows[-1]["more"] == 1000 - BURST
    assert [row["event"] for row in rows].count("page opened") == 1


def test_a_disk_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_writer, "RETRY_S", 0.05)
    path = tmp_path / "audit.jsonl"
    writer = opened(path)
    write = os.write
    tries: list[bytes] = []

    def full(descriptor: int, content: bytes) -> int:
        if len(tries) < 3 and b'"event"' in content:
            tries.append(content)
            write(descriptor, content[:10])  # a part of it fits
            return 10
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    writer.note("start")
    # Until the writer has removed the part that it wrote, the file is no record.
    wait_until(lambda: len(tries) == 3 and path.read_text().endswith("\n"), "the record")
    writer.close()
    assert [row["event"] for row in records(path)] == ["start"]
    assert verify(path).broken is None


def test_without_a_file_nothing_is_written() -> None:
    writer = AuditWriter(None)
    writer.note("start")
    writer.note_bounded("page refused")
    writer.close()
    assert writer.dropped == 0
