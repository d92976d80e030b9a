"""Figures of a report: per recording, and of all together. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from speech_emotion.commands.export.source import Track
from speech_emotion.common.wire import public
from speech_emotion.infer.decision import UNCERTAIN

BINS = 240
"""Longest timeline: each bin has its most frequent state."""
QUIET_DBFS, CLIPPED_SHARE, NOISY_DB = -45.0, 0.001, 15.0
"""Below, above and below which a recording is called too quiet, clipped and noisy."""
SILENCE, GAP = "silence", "gap"


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording.

    Attributes:
        seconds: its length.
        timeline: state of each bin: a label, `uncertain`, `silence` or `gap`; bins are equally
            long and cover the whole recording.
        emotions: seconds of speech by label, `uncertain` included.
        reasons: seconds of `uncertain` by reason.
        utterances: number of utterances.
        rms_db, peak_db, clipped, snr_db: see docs/ARCHIVE.md; None where they are not known.
        error: why it was not read, or not to its end.
    """

    name: str
    seconds: float
    timeline: list[str]
    emotions: dict[str, float]
    reasons: dict[str, float]
    utterances: int
    rms_db: float | None
    peak_db: float | None
    clipped: float | None
    snr_db: float | None
    error: str | None

    @property
    def speech_s(self) -> float:
        return sum(self.emotions.values())

    @property
    def top(self) -> str | None:
        """The label with the longest time; None without any."""
        known = [(seconds, label) for label, seconds in self.emotions.items() if label != UNCERTAIN]
        return max(known)[1] if known else None

    @property
    def findings(self) -> list[str]:
        """What is wrong with its sound, worst first; what it means first, the number second."""
        found = []
        if self.clipped is not None and self.clipped > CLIPPED_SHARE:
            found.append(f"clipped ({self.clipped:.1%} of samples)")
        if self.rms_db is not None and self.rms_db < QUIET_DBFS:
            found.append(f"very quiet ({self.rms_db:.0f} dBFS)".replace("-", "−"))
        if self.snr_db is not None and self.snr_db < NOISY_DB:
            found.append(f"noisy or without pauses ({self.snr_db:.0f} dB)")
        return found


def recording_of(track: Track) -> Recording:
    """The figures of one track.

    Windows overlap: each counts for one hop.
    """
    emotions: dict[str, float] = {}
    reasons: dict[str, float] = {}
    marks: list[tuple[float, str]] = []
    utterances, end, step = 0, 0.0, 0.0
    previous: public.Result | None = None
    for message in track.messages:
        if isinstance(message, public.Utterance):
            utterances += 1
            continue
        span = (message.end - message.start) / message.rate
        if previous is not None:
            step = (message.end - previous.end) / message.rate
        hop = step or span
        state = message.emotion or message.state
        if message.emotion is not None:
            _add(emotions, message.emotion, hop)
            if message.reason:
                _add(reasons, message.reason, hop)
        marks.append(((message.start + message.end) / 2 / message.rate, state))
        end = message.end / message.rate
        previous = message
    about = track.about
    seconds = about.get("end") or end
    return Recording(
        name=track.name,
        seconds=seconds,
        timeline=_timeline(marks, seconds),
        emotions=emotions,
        reasons=reasons,
        utterances=utterances,
        rms_db=about.get("rms_db"),
        peak_db=about.get("peak_db"),
        clipped=about.get("clipped"),
        snr_db=about.get("snr_db"),
        error=about.get("error"),
    )


def _timeline(marks: list[tuple[float, str]], seconds: float) -> list[str]:
    """The most frequent state of each bin; a bin without a window has that of the nearest one."""
    if not marks or seconds <= 0.0:
        return []
    count = min(BINS, len(marks))
    votes: list[Counter[str]] = [Counter() for _ in range(count)]
    for at, state in marks:
        votes[min(count - 1, int(at / seconds * count))][state] += 1
    known = {k: vote.most_common(1)[0][0] for k, vote in enumerate(votes) if vote}
    return [known[min(known, key=lambda k, at=at: abs(k - at))] for at in range(count)]  # type: ignore[misc]


@dataclasses.dataclass(frozen=True)
class Total:
    """All recordings together.

    Attributes:
        labels: of the bundles, then `uncertain`.
        bundles: ids of the bundles.
    """

    recordings: list[Recording]
    labels: tuple[str, ...]
    bundles: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.recordings)

    @property
    def emotions(self) -> dict[str, float]:
        """Seconds of speech by label."""
        return _sum(one.emotions for one in self.recordings)

    @property
    def reasons(self) -> dict[str, float]:
        """Seconds of `uncertain` by reason."""
        return _sum(one.reasons for one in self.recordings)


def total_of(tracks: Iterable[Track]) -> Total:
    """Read all tracks, one after the other."""
    recordings: list[Recording] = []
    labels: dict[str, None] = {}
    bundles: dict[str, None] = {}
    for track in tracks:
        recordings.append(recording_of(track))
        labels |= dict.fromkeys(track.labels)
        bundles |= {track.bundle: None} if track.bundle else {}
    return Total(recordings, (*labels, UNCERTAIN), tuple(bundles))


def _add(table: dict[str, float], key: str, seconds: float) -> None:
    table[key] = table.get(key, 0.0) + seconds


def _sum(tables: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for table in tables:
        for key, seconds in table.items():
            _add(total, key, seconds)
    return total
