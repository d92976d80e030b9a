"""An alert: what happened, as data and in words. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from typing import Any

from speech_emotion.common.alert_rule import LEVEL

VERSION = 1
"""Version of the JSON object that is sent."""
ID_DIGITS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert, the same for all addresses.

    Attributes:
        id: 32 hex digits, the same whenever the same alert is sent again: a receiver drops an id
            that it knows.
        rule: name of its rule.
        label: the emotion; None: `dimension` was watched.
        dimension: what was watched in place of a label.
        value: probability of `label` (0 to 1), or value of `dimension` (`level`: dBFS).
        threshold: of the rule.
        time: unix time in seconds at which the condition held.
        seconds: length of the utterance or the episode.
        stream, run, seq, bundle: of the message that raised it, as in docs/PROTOCOL.md.
        test: a person asked for it to try an address.
    """

    id: str
    rule: str
    stream: str
    label: str | None
    dimension: str | None
    value: float
    threshold: float
    time: float
    seconds: float
    run: str
    seq: int
    bundle: str
    test: bool = False

    @property
    def title(self) -> str:
        """A few words: subject of an e-mail, title of a notification."""
        sort = "Test of the alert" if self.test else "Alert"
        return f"{sort} {self.rule}: {self.stream}"

    @property
    def text(self) -> str:
        """One sentence. A probability is the model's own estimate and no fact."""
        if self.test:
            return f"This is a test of the alert {self.rule}. Nothing has happened."
        length = f"for {self.seconds:.1f} s"
        if self.label is None:
            value = f"{self.value:.0f} dBFS" if self.dimension == LEVEL else f"{self.value:.2f}"
            what = f"{'an' if self.dimension == 'arousal' else 'a'} {self.dimension}"
            return f"{self.stream} has {what} of {value} {length}."
        return (
            f"{self.stream} sounds {self.label} {length} "
            f"({self.value:.0%} likely, by the model's own estimate)."
        )

    @property
    def moment(self) -> str:
        """The time as local date and time with its offset."""
        return datetime.datetime.fromtimestamp(self.time).astimezone().isoformat(timespec="seconds")

    def to_json(self) -> str:
        """The object that is sent: `v`, the attributes, `title` and `text`."""
        table = {"v": VERSION, **dataclasses.asdict(self), "title": self.title, "text": self.text}
        return json.dumps(table, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Alert:
        """The alert of `to_json`.

        Raises:
            ValueError, TypeError, KeyError: the text is none.
        """
        table: dict[str, Any] = json.loads(text)
        return Alert(**{field.name: table[field.name] for field in dataclasses.fields(Alert)})


def alert_id(*parts: object) -> str:
    """The id of an alert: a hash of what makes it this one."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:ID_DIGITS]
