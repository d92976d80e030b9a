"""The page of a fleet in a real browser: what is wrong with each box, while it changes."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from speech_emotion import __version__
from speech_emotion.common.closing import Closing
from speech_emotion.common.wire import public
from tests.support.fleet import NATS_SERVER, Box, Fleet, fleet_of
from tests.support.pages import API, TOKEN, answers, get, opened, shows, text
from tests.support.pipelines import PATIENCE_S, ROOT, wait_until
from tests.support.publisher import health
from tools.browser import CHROMIUM
from tools.ports import free_port

pytestmark = [
    pytest.mark.skipif(NATS_SERVER is None, reason="needs nats-server"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
NAMES = ("kitchen", "hall", "attic", "cellar")
REPEAT_S = 5.0
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
}


def unplugged() -> public.Health:
    """A box whose microphone was lost 100 s ago."""
    lost = health(source="lost")
    (row,) = lost.streams
    return dataclasses.replace(
        lost, streams=[dataclasses.replace(row, state_s=100.0, reason="unplugged")]
    )


class Boxes(Closing):
    """Boxes whose newest `health` is sent again and again, as pipelines do."""

    def __init__(self, fleet: Fleet) -> None:
        self.boxes = {name: Box(fleet, name) for name in NAMES}
        self._healths: dict[str, public.Health] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._repeat)
        self._thread.start()

    def tell(self, name: str, message: public.Health) -> None:
        with self._lock:
            self._healths[name] = message
            self._send(name)

    def _send(self, name: str) -> None:
        self.boxes[name].tell(dataclasses.replace(self._healths[name], time=time.time()))

    def _repeat(self) -> None:
        while not self._end.wait(REPEAT_S):
            with self._lock:
                for name in self._healths:
                    self._send(name)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        for box in self.boxes.values():
            box.sender.stop(1.0)


@contextlib.contextmanager
def status_page(fleet: Fleet) -> Iterator[int]:
    """`fleet status --serve`, with a token; its port."""
    port = free_port()
    words = ["fleet", "status", *fleet.access, f"--serve=127.0.0.1:{port}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "speech_emotion", *words],
        cwd=ROOT,
        env={**os.environ, "SEP_DASHBOARD__TOKEN": TOKEN},
    )
    try:
        wait_until(lambda: answers(port), "the page")
        yield port
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def rows(page: Any) -> list[str]:
    """The text of each row of the table."""
    found: list[str] = page.locator("#table tbody tr").all_inner_texts()
    return [" ".join(one.split()) for one in found]


def whole(found: list[str]) -> bool:
    """Whether the rows show the health and the bundle of every box, and since when one is muted.

    Each arrives by itself.
    """
    known = [one for one in found if "@1" in one and "no contact" not in one]
    since = [one for one in known if "muted: by hand" in one and "since" in one]
    return (len(known), len(since)) == (len(NAMES), 1)


@pytest.mark.costly_cases
@pytest.mark.parametrize("look", LOOKS)
def test_the_page_shows_which_box_needs_attention(chromium: Any, tmp_path: Path, look: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with fleet_of(tmp_path, *NAMES, box={"leaf": False}) as fleet, status_page(fleet) as port:
        assert get(port, f"{API}/events")[0] == 401
        url = f"http://127.0.0.1:{port}/?token={TOKEN}"
        with opened(chromium, url, **LOOKS[look]) as page:
            shows(page, "#banner", "The centre does not answer")
            fleet.make_streams()
            shows(page, "#hint", "No box has published yet")
            shows(page, "#pill", "No boxes yet")
            assert page.locator("#banner").is_hidden()

            with Boxes(fleet) as boxes:
                mute = public.Mute(["hand"], None, "by hand")
                boxes.tell("kitchen", health())
                boxes.tell("hall", unplugged())
                boxes.tell("attic", dataclasses.replace(health(), mute=mute))
                boxes.tell("cellar", health())
                for name, box in boxes.boxes.items():
                    box.send(1, bundle="old@1" if name == "cellar" else "new@1")
                wait_until(lambda: whole(rows(page)), "health and bundle of every box")
                shows(page, "#pill", "3 of 4 need attention")
                hall, attic, cellar, kitchen = rows(page)
                assert "no sound: main is lost (unplugged)" in hall
                assert "for 2 min" in hall
                assert "muted: by hand" in attic
                assert re.search(r"since \d\d:\d\d:\d\d, for", attic)
                assert "other bundle: main has old@1" in cellar
                assert kitchen.startswith("kitchen home All well")
                assert "new@1" in kitchen
                assert all(one.endswith(__version__) for one in rows(page))
                width = LOOKS[look]["viewport"]["width"]
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert axe.run(page).response["violations"] == []

                boxes.tell("hall", health())
                shows(page, "#pill", "2 of 4 need attention")
                assert rows(page)[0].startswith("attic home")
                if look != "desktop":
                    first = fleet.run("status", "--json", code=1).splitlines()[0]
                    found = json.loads(first)
                    assert (found["box"], found["faults"][0]["kind"]) == ("attic", "muted")
            fleet.centre.pause()  # it is killed while it is asked
            time.sleep(2.0)
            fleet.centre.kill()
            shows(page, "#pill", "No answer")
            # The question that the kill met may have been answered in another way.
            shows(page, "#banner", "no server answers there (connection refused)")
            assert "The answer shown is" in text(page, "#banner")
            assert len(rows(page)) == 4
            if look != "desktop":
                page.evaluate("localStorage.setItem('language', 'de')")
                page.reload()
                shows(page, "#banner", "Die Zentrale antwortet nicht")
            gc.collect()  # nats-py leaves sockets of lost connections to the collector
