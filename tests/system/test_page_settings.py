"""The page of the settings of a pipeline that has no configuration file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import API, answers, get, opened, post_json, shows
from tests.support.pipelines import Running, wait_until
from tools.browser import CHROMIUM
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

pytestmark = [
    pytest.mark.xdist_group("chromium"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
]


def test_a_pipeline_without_a_file_shows_its_settings(
    chromium: Any, supervise: Supervise, clip: Clip
) -> None:
    port = free_port()
    running = supervise(
        f"--source=file:{clip(5.0, repeat=20)}",
        f"--dashboard=127.0.0.1:{port}",
        env={"SEP_HISTORY__DAYS": "5"},
    )
    wait_until(lambda: answers(port), "the page")
    told = json.loads(get(port, f"{API}/settings")[2])
    assert told["file"] is None
    assert "start it with --config FILE" in told["problem"]
    assert told["values"]["history.days"] == 5.0
    status, answer = post_json(
        port, f"{API}/settings", {"version": "", "changes": {"history.days": 1}}
    )
    assert status == 409
    assert "--config FILE" in answer
    with opened(chromium, f"http://127.0.0.1:{port}/settings.html", locale="de-DE") as page:
        shows(page, "#problem", "Hier lässt sich jetzt nichts ändern: the pipeline was started")
        assert page.title() == "Einstellungen · Speech emotion"
        assert page.get_by_label("Verlauf").input_value() == "5"
        assert page.locator("#save").is_hidden()
        assert page.locator("#keep :enabled, #quiet :enabled, #alerts :enabled").count() == 0
    running.process.terminate()
    assert running.ended()[0] == 0
