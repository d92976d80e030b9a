"""Rules of alerts against the bundle."""

from __future__ import annotations

import pytest

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import UserError
from speech_emotion.supervision.resources import check_alerts
from tests.support.pipelines import ROOT


def config(**rule: object) -> Config:
    alert = {"name": "one", "to": "https://box.example/", **rule}
    return Config.model_validate({"alerts": [alert]})


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"label": "bored"}, "needs a label 'bored'; the bundle has: angry, happy"),
        (
            {"dimension": "arousal"},
            "needs the dimension 'arousal'; with this bundle there is level",
        ),
    ],
)
def test_a_rule_needs_what_the_bundle_gives(rule: dict[str, object], fault: str) -> None:
    small = load_bundle(ROOT / "models" / "small")
    with pytest.raises(UserError, match=fault):
        check_alerts(config(**rule), small)


def test_default_gives_arousal_and_every_bundle_a_level() -> None:
    default = load_bundle(ROOT / "models" / "default")
    check_alerts(config(dimension="arousal", threshold=0.7), default)
    check_alerts(config(dimension="level", threshold=-20.0), default)
    with pytest.raises(ValueError, match="threshold = -20 must be 0 to 1"):
        config(dimension="arousal", threshold=-20.0)
