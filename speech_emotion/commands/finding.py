"""What the doctor finds: a level, a topic, a text and advice."""

from __future__ import annotations

import dataclasses
import enum

from speech_emotion.common.errors import printable


class Level(enum.IntEnum):
    """Severity of a finding; the worst one is the exit code."""

    WELL = 0
    LOOK = 1
    BAD = 2


@dataclasses.dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        topic: what was checked.
        text: the outcome.
        advice: what to do about it; empty where nothing is wrong.
    """

    level: Level
    topic: str
    text: str
    advice: str = ""

    def lines(self) -> list[str]:
        """The lines to print."""
        mark = {Level.WELL: "ok  ", Level.LOOK: "look", Level.BAD: "BAD "}[self.level]
        more = [f"{'':20}-> {self.advice}"] if self.advice else []
        return [printable(line) for line in (f"{mark}  {self.topic:<13} {self.text}", *more)]


def well(topic: str, text: str) -> Finding:
    return Finding(Level.WELL, topic, text)


def look(topic: str, text: str, advice: str) -> Finding:
    return Finding(Level.LOOK, topic, text, advice)


def bad(topic: str, text: str, advice: str) -> Finding:
    return Finding(Level.BAD, topic, text, advice)
