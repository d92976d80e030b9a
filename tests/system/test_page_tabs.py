"""Many tabs of one browser, and a tab that sleeps: all of them show the present."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.support.live_page import INFO, live, sending
from tests.support.pages import Dashboard, dashboard, new_context, opened, shows, text
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

    def shown(tab: Any) -> bool:
        return text(tab, "#emotion") == emotion

    with sending(publish):
        for tab in tabs:
            wait_until(functools.partial(shown, tab), f"{emotion} in every tab")


@pytest.mark.slow
def test_every_one_of_24_tabs_is_live(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    check_tabs(chromium, publisher, TABS)


def check_tabs(chromium: Any, publisher: tuple[Publisher, str], count: int) -> None:
    """Tabs of one browser share a connection, also after it and the server were lost."""
    seqs = itertools.count(0, 2)

    def sad() -> None:
        publisher[0].send(INFO)  # a server that has restarted does not know the hop
        publisher[0].send(live(next(seqs)))

    def angry() -> None:
        publisher[0].send(live(next(seqs) + 1))

    with dashboard(publisher) as server:
        space = new_context(chromium)
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


def test_a_tab_that_slept_for_eight_hours_is_live_at_once(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    """Its clock stands still from when it wakes: nothing waits for a timer."""
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
        page.clock.pause_at(page.evaluate("Date.now()") / 1000.0 + 600.0)
        page.evaluate(hide, False)
        shows(page, "#emotion", "angry")
