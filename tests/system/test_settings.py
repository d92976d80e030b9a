"""Settings over HTTP: a real pipeline takes them while it runs, and its file stays the user's."""

from __future__ import annotations

import dataclasses
import json
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from tests.support.alert_receivers import WebServer, web_server
from tests.support.pages import API, answers, get, opened, post_json, shows
from tests.support.pipelines import DEMO, Running, leftovers, nothing_left_but, wait_until
from tools.browser import CHROMIUM
from tools.ports import free_port

pytestmark = pytest.mark.xdist_group("settings")  # its pipeline is started once
SECRET = "pa55-pa55-pa55"
TOML = """\
# The box in the kitchen.
[dashboard]
listen = "127.0.0.1:{port}"

[history]
file = "{folder}/h.sqlite"
days = 14.0  # two weeks

[outbox]
file = "{folder}/alerts.sqlite"

[audit]
file = "{folder}/audit.jsonl"

[mute]
state = "{folder}/mute.json"
# No quiet hours yet.

[[stream]]
source = "file:{clip}"
"""


@dataclasses.dataclass
class Box:
    """A pipeline with a configuration file and a page."""

    running: Running
    config: Path
    port: int
    server: WebServer

    def settings(self) -> dict[str, Any]:
        status, _, body = get(self.port, f"{API}/settings")
        assert status == 200, body
        table: dict[str, Any] = json.loads(body)
        return table

    def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        status, answer = post_json(
            self.port, f"{API}/{path}", {"version": self.settings()["version"], **body}
        )
        return status, json.loads(answer)

    def change(self, path: str = "settings", **changes: Any) -> dict[str, Any]:
        """The answer to a change; `__` in a name stands for a point."""
        status, answer = self.post(
            path, changes={key.replace("__", "."): value for key, value in changes.items()}
        )
        assert status == 200, answer
        return answer

    def health(self) -> public.Health:
        newest: public.Health = self.running.received.fresh(public.Health)[-1]
        return newest

    def restarts(self, name: str) -> int:
        return next((one.restarts for one in self.health().stages if one.name == name), 0)

    def newest_change(self) -> dict[str, Any]:
        return (self.audit() or [{}])[-1]

    def audit(self) -> list[dict[str, Any]]:
        lines = (self.config.parent / "audit.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if row["event"] == "setting"]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder, port, before = tmp_path_factory.mktemp("box"), free_port(), leftovers()
    config = folder / "box.toml"
    config.write_text(TOML.format(port=port, folder=folder, clip=long_clip(folder)))
    config.chmod(0o640)
    with web_server() as server:
        running = Running(f"--config={config}", "--sensitivity=low")
        try:
            wait_until(lambda: answers(port), "the page")
            running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
            yield Box(running, config, port, server)
            running.process.terminate()
            code, stderr, _ = running.ended()
            assert code == 0, stderr
        finally:
            running.end()
    nothing_left_but(before)


def long_clip(folder: Path) -> Path:
    """A sound file of several minutes, in real time longer than the tests."""
    import numpy as np
    import soundfile

    samples, rate = soundfile.read(DEMO, dtype="float32")
    path = folder / "long.wav"
    soundfile.write(path, np.tile(samples, 1 + 600 * rate // len(samples)), rate)
    return path


def rule(box: Box, **more: Any) -> dict[str, Any]:
    to = f"http://:{SECRET}@127.0.0.1:{box.server.port}/{SECRET}"
    return {"name": "loud", "dimension": "level", "threshold": -90, "to": [to], **more}


def test_a_change_is_checked_written_taken_and_undone(box: Box) -> None:
    before = box.config.read_text()
    told = box.settings()
    assert told["problem"] is None
    assert told["file"] == str(box.config)
    assert told["undo"] is None
    assert told["values"]["history.days"] == 14.0
    fixed = {one["key"]: one["fixed"] for one in told["fields"]}
    assert fixed["sensitivity"] == "--sensitivity"
    assert fixed["history.days"] is None

    # What is wrong: the text of the command line, beside its key; nothing is written.
    for path in ("settings/check", "settings"):
        answer = box.change(path, history__days=-1)
        assert not answer["ok"]
        assert answer["key"] == "history.days"
        assert answer["text"] == "history.days = -1 must be greater than 0"
        answer = box.change(path, alerts=[rule(box, dimension=None, label="bored", threshold=0.5)])
        assert answer["key"] == "alerts.0.label"
        assert "the alert 'loud' needs a label 'bored'; the bundle has: angry" in answer["text"]
        answer = box.change(path, alerts=[rule(box, to=["command:rm -rf /"])])
        assert "a command can be added in the configuration file only" in answer["text"]
    assert box.change("settings/check", history__days=3)["ok"]
    assert box.config.read_text() == before
    assert sorted(one.name for one in box.config.parent.glob("*box.toml*")) == ["box.toml"]

    # The first rule of an alert starts its process; the history keeps its rows.
    answer = box.change(history__days=3, alerts=[rule(box)], prosody=True)
    assert answer == {"ok": True, "text": "", "key": "", "waiting": ["prosody"]}
    written = box.config.read_text()
    assert "# The box in the kitchen." in written
    assert "days = 3  # two weeks" in written
    assert stat.S_IMODE(box.config.stat().st_mode) == 0o640
    wait_until(lambda: bool(box.server.posted), "an alert of the new rule")
    told = box.settings()
    assert told["waiting"] == ["prosody"]
    assert SECRET not in json.dumps(told)
    wait_until(lambda: box.restarts("history") > 0, "the history's restart")

    # An address that is shown without its secret keeps it.
    rules = told["values"]["alerts"]
    assert box.change(alerts=[{**rules[0], "cool_down_s": 1}])["ok"]
    assert SECRET in box.config.read_text()

    # Quiet hours count at once.
    quiet = [{"begin": "00:00", "end": "12:00"}, {"begin": "12:00", "end": "00:00"}]
    assert box.change(mute__quiet_hours=quiet)["ok"]
    box.running.subscriber.wait_for(
        lambda received: received.fresh(public.Health)[-1].mute is not None
    )
    assert box.settings()["undo"] is not None
    for _ in range(3):
        status, answer = box.post("settings/undo")
        assert (status, answer["ok"]) == (200, True), answer
    assert box.config.read_text() == before
    assert box.settings()["waiting"] == []
    status, answer = box.post("settings/undo")
    assert status == 409
    assert "there is no change to undo" in answer["error"]
    box.running.subscriber.wait_for(lambda received: received.fresh(public.Health)[-1].mute is None)

    # The processes that were restarted have missed nothing.
    counters = box.health().counters
    assert {counters[name] for name in ("history_lost", "alerts_lost")} == {0}

    # Each change is in the audit log, without secrets.
    wait_until(lambda: len(box.audit()) == 10, "the audit log")
    rows = box.audit()
    assert SECRET not in json.dumps(rows)
    assert {row["by"] for row in rows} == {"page at 127.0.0.1", "page at 127.0.0.1, undo"}
    days = [(row["before"], row["after"]) for row in rows if row["key"] == "history.days"]
    assert days == [("14.0", "3.0"), ("3.0", "14.0")]
    assert {row["key"] for row in rows} == {
        *("history.days", "alerts.loud", "prosody", "mute.quiet_hours"),
    }


def test_what_an_editor_changes_is_never_lost(box: Box) -> None:
    before = box.config.read_text()
    shown = box.settings()["version"]
    box.config.write_text(before.replace("two weeks", "2 weeks"))
    changes = {"version": shown, "changes": {"history.days": 5}}
    for path, body in (("settings", changes), ("settings/undo", {"version": shown})):
        status, answer = post_json(box.port, f"{API}/{path}", body)
        assert status == 409
        assert "the configuration file has changed" in json.loads(answer)["error"]
    assert "2 weeks" in box.config.read_text()
    # A reload takes what an editor wrote; one that is wrong changes nothing.
    box.config.write_text(before.replace("14.0", "9.0"))
    restarts = box.restarts("history")
    box.running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: box.newest_change().get("after") == "9.0", "the reload")
    assert box.newest_change()["by"] == "reload"
    wait_until(lambda: box.restarts("history") > restarts, "a new history writer")
    box.config.write_text(before.replace("14.0", "-9"))
    told = box.settings()
    assert "history.days = -9 must be greater than 0" in told["problem"]
    box.config.write_text(before)
    box.running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: box.newest_change().get("after") == "14.0", "the reload")


@pytest.mark.parametrize(
    "body",
    [
        *({}, [], {"version": "x"}, {"version": 5, "changes": {"history.days": 1}}),
        {"version": "x", "changes": {}},
        {"version": "x", "changes": {"stream": []}},
        {"version": "x", "changes": {"audit.file": None}},
        {"version": "x", "changes": {"history.days": 1}, "more": 1},
    ],
    ids=str,
)
def test_what_is_no_change_is_refused(box: Box, body: object) -> None:
    for path in ("settings", "settings/check"):
        assert post_json(box.port, f"{API}/{path}", body)[0] == 400
    assert post_json(box.port, f"{API}/settings/undo", [body])[0] == 400


def test_only_the_own_page_may_change_settings(box: Box) -> None:
    body = {"version": box.settings()["version"], "changes": {"history.days": 5}}
    before = box.config.read_text()
    for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert post_json(box.port, f"{API}/settings", body, **headers)[0] == 403
    assert post_json(box.port, f"{API}/settings", body, Content_Type="text/plain")[0] == 415
    assert box.config.read_text() == before


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it")
def test_a_person_changes_settings(chromium: Any, box: Box) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    before = box.config.read_text()
    url = f"http://127.0.0.1:{box.port}/"
    with opened(chromium, url, bypass_csp=True) as page:
        loaded: list[str] = page.evaluate(
            "performance.getEntriesByType('resource').map((one) => one.name)"
        )
        assert not [one for one in loaded if "settings" in one]
        page.locator("#settings-link").click()
        shows(page, "#form", "Save")
        days = page.get_by_label("History days")
        assert days.input_value() == "14"
        assert page.get_by_label("Sensitivity").is_disabled()
        shows(page, '[data-key="sensitivity"]', "Set by --sensitivity; it cannot be changed here.")
        # A mistake is shown beside the field, with the keyboard alone.
        days.focus()
        page.keyboard.press("Control+A")
        page.keyboard.type("-2")
        page.keyboard.press("Tab")
        error = '[data-key="history.days"] > .error'
        shows(page, error, "history.days = -2 must be greater than 0")
        assert days.get_attribute("aria-invalid") == "true"
        assert axe.Axe().run(page).response["violations"] == []
        days.focus()
        page.keyboard.press("Enter")
        shows(page, "#outcome", "Nothing was saved: a setting is wrong.")
        assert page.evaluate("document.activeElement.value") == "-2"
        page.keyboard.press("Control+A")
        page.keyboard.type("8")
        page.keyboard.press("Tab")
        page.locator(error).wait_for(state="hidden")
        # Rows: quiet hours and a rule, whose mistake opens its part of the page.
        page.get_by_role("button", name="Add quiet hours", exact=True).click()
        page.get_by_role("button", name="Add a rule").click()
        page.keyboard.type("loud")
        page.get_by_label("Addresses").fill(rule(box)["to"][0])
        page.get_by_label("Dimension").select_option("level")
        page.get_by_label("Threshold").fill("-90")
        page.locator(".rows details > summary").click()
        page.get_by_label("Cool-down").fill("-1")
        page.locator(".rows details > summary").click()
        page.get_by_role("button", name="Save").click()
        cool = '[data-key="alerts.cool_down_s"]'
        shows(page, f"{cool} > .error", "alerts.0.cool_down_s = -1 must be greater than or equal")
        assert page.locator(f"{cool} input").is_visible()
        page.get_by_label("Cool-down").fill("2,5")
        page.get_by_role("button", name="Save").click()
        shows(page, "#outcome", "Saved.")
        written = box.config.read_text()
        assert "days = 8  # two weeks" in written
        assert 'begin = "22:00"' in written
        assert "cool_down_s = 2.5" in written
        assert SECRET not in page.content()
        for width in (1280, 390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
        assert axe.Axe().run(page).response["violations"] == []
        # One click restores the file.
        page.locator("#undo", has_text="Undo the change of").focus()
        page.keyboard.press("Enter")
        shows(page, "#outcome", "The settings before that change are back.")
        assert box.config.read_text() == before
        assert page.get_by_label("History days").input_value() == "14"
        assert page.locator("#undo").is_hidden()
