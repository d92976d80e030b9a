"""Mute on the page: with a real pipeline in a real browser, and requests that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from tests.support.pages import (
    API,
    TOKEN,
    Dashboard,
    answers,
    get,
    opened,
    post_json,
    shows,
    titled,
)
from tests.support.pipelines import Running, fresh_endpoint, wait_until
from tools.browser import CHROMIUM
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"
)


pytestmark = pytest.mark.xdist_group("chromium")


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return state_in(tmp_path)


def state_in(folder: Path) -> dict[str, str]:
    return {"SEP_MUTE__STATE": str(folder / "mute.json")}


def muted(running: Running) -> public.Mute | None:
    health: public.Health = running.received.fresh(public.Health)[-1]
    return health.mute


@needs_chromium
def test_a_person_mutes_and_unmutes(
    chromium: Any, supervise: Supervise, clip: Clip, state: dict[str, str]
) -> None:
    port = free_port()
    running = supervise(
        f"--source=file:{clip(5.0, repeat=20)}", f"--dashboard=127.0.0.1:{port}", env=state
    )
    wait_until(lambda: answers(port), "the page")
    with opened(chromium, f"http://127.0.0.1:{port}/") as page:
        shows(page, "#pill", "Live")
        page.locator("#mute").click()
        page.locator("#mute-dialog").get_by_role("button", name="Cancel").click()
        page.locator("#mute-dialog").wait_for(state="hidden")
        page.locator("#mute").click()
        page.locator("#mute-dialog").get_by_role("button", name="1 hour").click()
        shows(page, "#emotion", "muted")
        shows(page, "#pill", "Muted")
        shows(page, "#confidence", "Muted by hand until")
        shows(page, "#confidence", "No sound is taken.")
        titled(page, "Muted · main")
        page.locator("#banner").wait_for(state="hidden")
        # The page and this subscriber get a message at different times.
        wait_until(lambda: muted(running) is not None, "the health with the mute")
        mute = muted(running)
        assert mute is not None
        assert mute.by == ["hand"]
        assert mute.until is not None
        # With the keyboard alone.
        page.locator("#mute:enabled", has_text="Unmute").focus()
        page.keyboard.press("Enter")
        page.locator("#emotion:not([data-kind=muted])").wait_for()
        wait_until(lambda: muted(running) is None, "the health without a mute")
    running.process.terminate()
    code, stderr, _ = running.ended()
    assert code == 0, stderr


@needs_chromium
def test_what_mutes_otherwise_has_no_button(
    chromium: Any, supervise: Supervise, clip: Clip, state: dict[str, str], tmp_path: Path
) -> None:
    port, switch = free_port(), tmp_path / "value"
    switch.write_text("1\n")
    running = supervise(
        f"--source=file:{clip(5.0, repeat=20)}",
        f"--dashboard=127.0.0.1:{port}",
        env={**state, "SEP_MUTE__SWITCH": str(switch)},
    )
    wait_until(lambda: answers(port), "the page")
    with opened(chromium, f"http://127.0.0.1:{port}/") as page:
        shows(page, "#confidence", "Muted by the switch. No sound is taken.")
        assert page.locator("#mute").is_hidden()
        switch.write_text("0\n")
        page.locator("#mute").wait_for()
    running.process.terminate()
    assert running.ended()[0] == 0


def post(port: int, body: object, **headers: str) -> tuple[int, str]:
    return post_json(port, f"{API}/mute", body, **headers)


def test_requests_that_are_refused(supervise: Supervise, clip: Clip, state: dict[str, str]) -> None:
    port = free_port()
    running = supervise(
        f"--source=file:{clip(5.0, repeat=20)}",
        f"--dashboard=127.0.0.1:{port}",
        env={**state, "SEP_DASHBOARD__TOKEN": TOKEN},
    )
    wait_until(lambda: answers(port), "the page")
    running.subscriber.wait_for(lambda r: bool(r.fresh(public.Result) and r.fresh(public.Health)))
    good, key = {"muted": True}, {"Authorization": f"Bearer {TOKEN}"}
    assert post(port, good)[0] == 401
    assert post(port, good, **key, Origin="http://evil.example")[0] == 403
    assert post(port, good, **key, Sec_Fetch_Site="cross-site")[0] == 403
    assert post(port, good, **key, Content_Type="text/plain")[0] == 415
    assert get(port, "/api/v1/mute", key)[0] == 405
    bad: list[object] = [
        *(b"", b"{", b"\xff", [], 1, {}, {"muted": 1}, {"muted": "yes"}),
        *({"muted": True, "seconds": "1"}, {"muted": True, "seconds": True}),
        *(b'{"muted": true, "seconds": 1e999}', b'{"muted": true, "seconds": NaN}'),
        *({"muted": True, "seconds": 0}, {"muted": True, "seconds": 1e12}, {"muted": True, "x": 1}),
    ]
    for body in bad:
        status, answer = post(port, body, **key)
        assert (status, len(answer.splitlines())) == (400, 1), body
    assert post(port, b" " * 2000, **key)[0] == 413
    assert muted(running) is None
    assert json.loads(post(port, good, **key)[1]) == {
        "ok": True,
        "text": "muted by hand; no sound is taken",
    }
    wait_until(lambda: muted(running) is not None, "the mute")
    running.process.terminate()
    assert running.ended()[0] == 0


def test_a_page_of_its_own_cannot_mute() -> None:
    server = Dashboard(fresh_endpoint())
    try:
        status, answer = post(server.port, {"muted": True})
        assert status == 409
        assert "cannot mute" in answer
    finally:
        server.end()
