"""Alerts on the page: rules, a test, deliveries and failures, in a real browser."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.alert_messages import alert_config
from tests.support.alert_receivers import web_server
from tests.support.pages import API, answers, get, opened, post_json, shows, violations
from tests.support.pipelines import Running, wait_until
from tools.browser import CHROMIUM
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]
SECRET = "pa55-pa55-pa55"

pytestmark = [
    pytest.mark.xdist_group("chromium"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
]


@contextlib.contextmanager
def busy(page: Any, times: int) -> Iterator[None]:
    """Refuse some questions about the alerts after a test was sent."""
    sent: list[str] = []
    refused: list[str] = []
    address = re.compile("/api/v1/alerts(/test)?$")

    def answer(route: Any) -> None:
        if route.request.method == "POST":
            sent.append(route.request.url)
            route.continue_()
        elif sent and len(refused) < times:
            refused.append(route.request.url)
            route.fulfill(status=409, json={"error": "the alerts process does not answer"})
        else:
            route.continue_()

    page.route(address, answer)
    yield
    page.unroute(address)
    page.console_lines[:] = [line for line in page.console_lines if " 409 " not in line]


def test_a_person_sees_alerts_and_sends_a_test(
    chromium: Any, supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    port, closed = free_port(), free_port()
    with web_server() as server:
        config = alert_config(tmp_path, f"http://:{SECRET}@127.0.0.1:{server.port}/{SECRET}")
        with config.open("a") as file:
            file.write(
                "\n[[alerts]]\nname = 'broken'\nlabel = 'sad'\nthreshold = 1.0\n"
                f"to = 'http://127.0.0.1:{closed}/{SECRET}'\n"
            )
        running = supervise(
            *(f"--config={config}", f"--source=file:{clip(5.0, repeat=40)}"),
            f"--dashboard=127.0.0.1:{port}",
        )
        wait_until(lambda: answers(port), "the page")
        with opened(chromium, f"http://127.0.0.1:{port}/", bypass_csp=True) as page:
            shows(page, "#alerts-summary", "Rules: 6")
            page.locator("#alerts > summary").click()
            shows(page, "#sent li", re.compile("loud to .* delivered"))
            # With the keyboard alone; the alerts process is busy at first.
            with busy(page, 3):
                page.get_by_role("button", name="Send a test of angry").focus()
                page.keyboard.press("Enter")
                shows(page, '[data-rule="angry"] .now', "The test was delivered")
            wait_until(lambda: any(one.json["test"] for one in server.posted), "the test")
            page.get_by_role("button", name="Send a test of broken").click()
            shows(page, '[data-rule="broken"] .now', "The test failed")
            shows(page, '[data-rule="broken"] .now', "Connection refused")
            shows(page, "#sent", "given up: no server answers there (connection refused)")
            assert SECRET not in page.content()
            for width in (1280, 390, 320):
                page.set_viewport_size({"width": width, "height": 800})
                page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
            assert violations(page) == []
        status, _, body = get(port, f"{API}/alerts")
        assert status == 200
        assert SECRET not in body.decode()
        names = [rule["name"] for rule in json.loads(body)["rules"]]
        assert names == ["angry", "happy", "neutral", "sad", "loud", "broken"]
        sent = len(server.posted)
        for wrong, expected in (({}, 400), ({"rule": 5}, 400), ({"rule": "nonsense"}, 404)):
            assert post_json(port, f"{API}/alerts/test", wrong)[0] == expected
        assert not any(one.json["test"] for one in server.posted[sent:])
        running.process.terminate()
        assert running.ended()[0] == 0
