"""Messages and rules for alerts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from speech_emotion.alerts.alert import Alert, alert_id
from speech_emotion.alerts.evaluation import Evaluation
from speech_emotion.common.alert_rule import AlertRule
from speech_emotion.common.config.load import load_config
from speech_emotion.common.wire import public
from tests.support.history import T0, make_utterance
from tests.support.pipelines import Received
from tests.support.publisher import HOP, RATE, WINDOW, result

LABELS = ("angry", "happy", "neutral", "sad")
HOP_S, WINDOW_S = HOP / RATE, WINDOW / RATE


def rule(**changes: Any) -> AlertRule:
    """A rule for windows that sound angry."""
    usual = {
        "name": "anger",
        "to": ("command:true",),
        "threshold": 0.6,
        "release": 0.5,
        "label": "angry",
        "watch": "windows",
    }
    return AlertRule(**{**usual, **changes})


def window(
    seq: int, angry: float | None, *, run: str = "a", began: float = T0, stream: str = "main"
) -> public.Result:
    """A window with a probability of `angry`; None: a gap. It ends `WINDOW_S` after it begins.

    Args:
        began: unix time of the start of the run.
    """
    plain = result(seq, run=run, stream=stream)
    time = began + HOP_S * seq + WINDOW_S
    if angry is None:
        return dataclasses.replace(plain, state="gap", time=time)
    table = {"angry": angry, "sad": 1.0 - angry}
    label = max(table, key=table.__getitem__)
    return dataclasses.replace(
        plain,
        state="speech",
        emotion=label,
        confidence=table[label],
        probabilities=table,
        smoothed=table,
        rms_db=-40.0 + 30.0 * angry,
        time=time,
    )


def utterance(
    seq: int, angry: float = 0.8, *, run: str = "a", seconds: float = 1.5, **changes: Any
) -> public.Utterance:
    """An utterance that sounds angry, or sad."""
    label = "angry" if angry >= 0.5 else "sad"
    return dataclasses.replace(
        make_utterance(seq),
        run=run,
        emotion=label,
        confidence=max(angry, 1.0 - angry),
        end=8000 * seq + round(16000 * seconds),
        **changes,
    )


def alert(number: int = 0, **changes: Any) -> Alert:
    """An alert."""
    usual = {
        "id": alert_id(number),
        "rule": "anger",
        "stream": "main",
        "label": "angry",
        "dimension": None,
        "value": 0.72,
        "threshold": 0.6,
        "time": T0,
        "seconds": 4.5,
        "run": "a",
        "seq": number,
        "bundle": "none@00000000",
    }
    return Alert(**{**usual, **changes})


def alert_config(folder: Path, to: str, more: str = "") -> Path:
    """A configuration with a rule for each label and one for the level, which all send to `to`."""
    rows = [
        f'[[alerts]]\nname = "{label}"\nlabel = "{label}"\nthreshold = 0.0\ncool_down_s = 0\n'
        f"to = '{to}'\n"
        for label in LABELS
    ]
    rows.append(
        '[[alerts]]\nname = "loud"\ndimension = "level"\nthreshold = -30\nrelease = -31\n'
        f"cool_down_s = 0\nto = ['{to}']\n"
    )
    path = folder / "box.toml"
    path.write_text("\n".join([*rows, f"[outbox]\nfile = '{folder / 'alerts.sqlite'}'\n", more]))
    return path


def expected_alerts(config: Path, received: Received) -> list[str]:
    """Ids of the alerts that what was published must raise."""
    rules = [row.rule for row in load_config(config, {}).alerts]
    evaluation = Evaluation(rules, {})
    return [
        alert.id
        for message, _, _ in received.messages
        if isinstance(message, public.Result | public.Utterance)
        for alert in evaluation.feed(message, 0.0)
    ]
