"""Results as stretches of time that do not overlap: utterances, and runs of equal windows."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

from speech_emotion.commands.export.source import Message, Track
from speech_emotion.common.wire import public

TIERS = ("utterances", "windows")


@dataclasses.dataclass(frozen=True)
class Span:
    """One stretch, in seconds, and its text."""

    start: float
    end: float
    text: str


@dataclasses.dataclass(frozen=True)
class Tiers:
    """The tiers of a recording.

    Attributes:
        length: its length in seconds.
        tiers: name → spans, in order, without overlap.
    """

    length: float
    tiers: dict[str, list[Span]]


def tiers_of(track: Track, wanted: Iterable[str] = TIERS) -> Tiers:
    """Utterances with their label and confidence, and windows as runs of equal labels.

    Windows overlap. Each counts for the hop around its middle, the first and the last one for
    the rest of their window, too.
    """
    results: list[public.Result] = []
    utterances: list[public.Utterance] = []
    for message in track.messages:
        if isinstance(message, public.Result):
            results.append(message)
        else:
            utterances.append(message)
    last: list[Message] = [*results[-1:], *utterances[-1:]]
    ends = [message.end / message.rate for message in last]
    # A file that is shorter than a window has a window that is longer than the file.
    length = track.about.get("end") or max(ends, default=0.0)
    found = {
        "utterances": _without_overlap(
            (Span(u.start / u.rate, u.end / u.rate, text_of(u)) for u in utterances), length
        ),
        "windows": _without_overlap(_runs(results), length),
    }
    return Tiers(length, {name: found[name] for name in wanted})


def text_of(message: Message) -> str:
    """Label and confidence, or the state of a window without speech."""
    if isinstance(message, public.Result) and message.emotion is None:
        return message.state
    doubt = f" ({message.reason})" if message.reason else ""
    if isinstance(message, public.Result) or message.confidence is None:
        return f"{message.emotion}{doubt}"
    return f"{message.emotion} {message.confidence:.2f}{doubt}"


def _runs(results: list[public.Result]) -> list[Span]:
    if not results:
        return []
    middles = [(r.start + r.end) / 2 / r.rate for r in results]
    edges = [
        results[0].start / results[0].rate,
        *((a + b) / 2 for a, b in itertools.pairwise(middles)),
        results[-1].end / results[-1].rate,
    ]
    runs: list[Span] = []
    for result, start, end in zip(results, edges[:-1], edges[1:], strict=True):
        text = text_of(result)
        if runs and runs[-1].text == text:
            runs[-1] = dataclasses.replace(runs[-1], end=end)
        else:
            runs.append(Span(start, end, text))
    return runs


def _without_overlap(spans: Iterable[Span], length: float) -> list[Span]:
    """The spans inside the recording; of two that overlap, the earlier one ends early.

    Utterances overlap where a long one was divided: both contain the window at the border.
    """
    kept: list[Span] = []
    for span in spans:
        clipped = dataclasses.replace(span, end=min(span.end, length))
        if kept and kept[-1].end > clipped.start:
            kept[-1] = dataclasses.replace(kept[-1], end=clipped.start)
            if kept[-1].end <= kept[-1].start:
                kept.pop()
        if clipped.end > clipped.start:
            kept.append(clipped)
    return kept
