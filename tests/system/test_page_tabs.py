"""Many tabs of one browser, and a tab that sleeps: all of them show the present."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.support.live_page import live
from tests.support.pages import Dashboard, dashboard, opened, shows, text
from tests.support.pipelines import wait_until
from tests.support.publisher import Publisher
from tools.browser import CHROMIUM

TABS = 24

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("chromium"),
]


def open_connections(server: Dashboard) -> int:
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port == server.port
        for one in psutil.Process(server.process.pid).net_connections("tcp")
    )


def all_show(tabs: list[Any], emotion: str, publish: Callable[[], None]) -> None:
    """Wait until every tab shows an emotion that is published again and again."""

    def turn() -> bool:
        publish()
        time.sleep(0.1)
        return all(text(tab, "#emotion") == emotion for tab in tabs)

    wait_until(turn, f"{emotion} in every tab")


@pytest.mark.slow
def test_every_one_of_24_tabs_is_live(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    check_tabs(chromium, publisher, TABS)


def check_tabs(chromium: Any, publisher: tuple[Publisher, str], count: int) -> None:
    """Tabs of one browser share a connection, also after it and the server were lost."""
    seq = 0

    def sad() -> None:
        nonlocal seq
        seq += 2
        publisher[0].send(live(seq))

    def angry() -> None:
        nonlocal seq
        seq += 2
        publisher[0].send(live(seq + 1))

    with dashboard(publisher) as server:
        space = chromium.new_context()
        tabs = [space.new_page() for _ in range(count)]
        for tab in tabs:
            tab.goto(server.url)
        all_show(tabs, "sad", sad)
        tabs[0].close()  # the one that has opened the connection
        all_show(tabs[1:], "angry", angry)
        wait_until(lambda: open_connections(server) <= 6, "the connections of the page loads")
        server.end()
        shows(tabs[-1], "#pill", "Disconnected")
        server.start()
        all_show(tabs[1:], "sad", sad)
        space.close()
        wait_until(lambda: open_connections(server) == 0, "the connection to end with its tabs")


def test_a_browser_without_shared_workers(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        page.add_init_script("delete window.SharedWorker")
        page.reload()
        publisher[0].send(live(0))
        shows(page, "#emotion", "sad")
        publisher[0].send(live(1))
        shows(page, "#emotion", "angry")


def test_a_tab_that_slept_for_eight_hours_is_live_within_two_seconds(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange")); }"""
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        page.clock.install()
        page.reload()
        publisher[0].send(live(0))
        shows(page, "#emotion", "sad")
        page.evaluate(hide, True)
        page.clock.fast_forward("08:00:00")
        wait_until(lambda: open_connections(server) == 0, "the connection to be closed")
        for seq in range(1, 10):
            publisher[0].send(live(seq))
        page.evaluate(hide, False)
        shows(page, "#emotion", "angry", timeout=2000.0)
