"""Figures of a report."""

from __future__ import annotations

import dataclasses

import pytest

from speech_emotion import Pipeline, Result
from speech_emotion.commands.export.source import Track
from speech_emotion.commands.export.tiers import tiers_of
from speech_emotion.commands.report.page import render
from speech_emotion.commands.report.summary import BINS, recording_of, total_of
from tests.support.pipelines import BUNDLE, DEMO

MESSAGES = [m for m in Pipeline(BUNDLE)(DEMO) if isinstance(m, Result)]
LABELS = ("angry", "happy", "neutral", "sad")
SPEECH = next(m for m in MESSAGES if m.emotion == "sad")
SILENT = next(m for m in MESSAGES if m.state == "silence")


def window(k: int, state: str | None) -> Result:
    """Window k of 1 s with a hop of 0.5 s."""
    made = SILENT if state is None else dataclasses.replace(SPEECH, emotion=state, reason=None)
    if state == "uncertain":
        made = dataclasses.replace(made, reason="low_margin")
    return dataclasses.replace(made, seq=k, start=8000 * k, end=8000 * k + 16000)


def track(states: list[str | None], **about: object) -> Track:
    messages = [window(k, state) for k, state in enumerate(states)]
    return Track("talk.wav", LABELS, "b@1", messages, about)


def test_seconds_by_label_and_reason() -> None:
    one = recording_of(track([None, "sad", "sad", "uncertain", "angry", None], end=3.5))
    assert one.seconds == 3.5
    assert one.emotions == {"sad": 1.0, "uncertain": 0.5, "angry": 0.5}
    assert one.reasons == {"low_margin": 0.5}
    assert one.speech_s == 2.0
    assert one.top == "sad"
    assert one.timeline == ["silence", "sad", "sad", "uncertain", "angry", "silence"]
    assert one.findings == []


def test_a_long_recording_has_bins_with_the_most_frequent_state() -> None:
    states = [label for label in ("sad", "happy") for _ in range(5 * BINS)]
    one = recording_of(track(list(states)))
    assert len(one.timeline) == BINS
    assert one.timeline == ["sad"] * (BINS // 2) + ["happy"] * (BINS // 2)


def test_empty_and_short_recordings() -> None:
    empty = recording_of(track([], end=0.0, error="is empty"))
    assert (empty.seconds, empty.timeline, empty.top, empty.error) == (0.0, [], None, "is empty")
    short = recording_of(track(["sad"], end=0.2))
    assert short.timeline == ["sad"]
    assert tiers_of(track(["sad"], end=0.2)).tiers["windows"][0].end == 0.2
    page = render(total_of([track([], error="is empty"), track(["sad"])]), "x.parquet")
    assert "is empty" in page


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"clipped": 0.05, "rms_db": -20.0, "snr_db": 40.0}, "clipped (5.0% of samples)"),
        ({"clipped": 0.0, "rms_db": -60.0, "snr_db": 40.0}, "very quiet (−60 dBFS)"),
        ({"clipped": 0.0, "rms_db": -20.0, "snr_db": 5.0}, "noisy or without pauses (5 dB)"),
        ({"clipped": 0.0, "rms_db": -20.0, "snr_db": 40.0}, None),
        ({}, None),
    ],
)
def test_what_is_wrong_with_the_sound(about: dict[str, float], said: str | None) -> None:
    assert recording_of(track(["sad"], **about)).findings == ([said] if said else [])


def test_names_and_labels_from_outside_are_escaped() -> None:
    evil = "<script>alert(1)</script>'\"&"
    message = dataclasses.replace(window(0, "sad"), emotion=evil)
    bad = Track(evil, (evil,), evil, [message], {"error": evil})
    page = render(total_of([bad]), evil)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4
