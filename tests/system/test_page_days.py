"""Days and weeks, all utterances, help, tour, languages, theme, and the page offline."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_result, make_utterance
from tests.support.live_page import INFO, live, sending
from tests.support.pages import Dashboard, opened, shows, stamped, text, violations
from tests.support.pipelines import wait_until
from tests.support.publisher import Publisher, health, publishing
from tools.browser import CHROMIUM

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("page_days"),  # its server is started once
]
STREAMS = ("main-10", "main-2", "main")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dashboard, Publisher]]:
    with site_of_days(tmp_path_factory.mktemp("days")) as one:
        yield one


@contextlib.contextmanager
def site_of_days(folder: Path) -> Iterator[tuple[Dashboard, Publisher]]:
    """A server with a history of three days, and what publishes three streams."""
    path = folder / "h.sqlite"
    write_history(path)
    with publishing() as (publisher, endpoint):
        server = Dashboard(endpoint, f"--history={path}")
        try:
            publisher.wait_for()
            rows = [health(name).streams[0] for name in STREAMS]
            for name in STREAMS:
                publisher.send(dataclasses.replace(INFO, stream=name))
            publisher.send(stamped(dataclasses.replace(health(), streams=rows)))
            yield server, publisher
        finally:
            server.end()


def noon(days_ago: int) -> float:
    day = dt.date.today() - dt.timedelta(days=days_ago)
    return dt.datetime.combine(day, dt.time(12)).timestamp()


def write_history(path: Path) -> None:
    """Half an hour of `angry` from noon two days ago, `sad` yesterday, and the last minutes."""
    rows: list[public.Public] = []
    seqs = itertools.count()
    for days_ago, seq_of in ((2, 1), (1, 0)):
        for minute in range(30):
            one = make_result(2 * next(seqs) + seq_of)
            rows.append(dataclasses.replace(one, time=noon(days_ago) + 60.0 * minute))
        rows += [
            dataclasses.replace(
                make_utterance(100 * days_ago + n),
                emotion="sad" if days_ago == 1 else "angry",
                time=noon(days_ago) + 60.0 * n,
            )
            for n in range(1, 20)
        ]
    recent = time.time() - 200.0
    rows += [dataclasses.replace(make_result(1000 + n), time=recent + 0.5 * n) for n in range(300)]
    writer = HistoryWriter(path)
    writer.write([(row, 0.0) for row in rows])
    writer.close()


def test_after_a_restart_the_last_minutes_come_from_the_history(
    chromium: Any, site: tuple[Dashboard, Publisher]
) -> None:
    """No result has arrived yet: the server's memory is empty."""
    with opened(chromium, site[0].url) as page:
        page.locator("#streams [data-stream=main]").click()
        wait_until(lambda: text(page, "#reading").startswith("Point"), "the chart")
        page.locator("#ribbon").focus()

        def read() -> bool:
            page.keyboard.press("ArrowLeft")
            return "dBFS" in text(page, "#reading")

        wait_until(read, "a row of the chart")
        # Natural order, and a small chart in each tab.
        names = page.locator("#streams .name").all_inner_texts()
        assert names == ["main", "main-2", "main-10"]
        assert page.locator("#streams canvas").count() == 3


def test_heat_map_comparison_and_list(chromium: Any, site: tuple[Dashboard, Publisher]) -> None:
    with opened(chromium, site[0].url, bypass_csp=True) as page:
        page.locator("#streams [data-stream=main]").click()
        page.locator("#days > summary").click()
        cells = page.locator("#heat td[data-hour='12'][data-known]")
        wait_until(lambda: cells.count() >= 2, "two hours with data")
        labels = cells.evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
        assert any("angry 100 %; 19 utterances" in one for one in labels)
        assert any("sad 100 %; 19 utterances" in one for one in labels)
        assert page.locator("#heat tbody tr").count() == 7
        shows(page, "#compare", "38 utterances")
        # With the keyboard alone: to a cell, read it, open it in the chart.
        page.locator("#heat td[tabindex='0']").focus()
        for key in ("End", "Home", *["ArrowRight"] * 12, *["ArrowDown"] * 6):
            page.keyboard.press(key)
        page.keyboard.press("ArrowUp")
        shows(page, "#heat-reading", "sad 100 %")
        page.keyboard.press("Enter")
        shows(page, "#past-title", "Hour until")
        page.locator("#days-period input[value=weekdays]").check()
        shows(page, "#heat", "Mon")
        page.locator("#days-period input[value=month]").check()
        wait_until(lambda: page.locator("#heat tbody tr").count() == 30, "a month")

        page.locator("#spoken > summary").click()
        items = page.locator("#spoken-list li")
        wait_until(lambda: items.count() == 38, "all utterances")
        assert items.first.locator("b").inner_text() == "sad"
        page.locator("#spoken-label").select_option("angry")
        wait_until(lambda: items.count() == 19, "those with one label")
        assert set(items.locator("b").all_inner_texts()) == {"angry"}
        page.locator("#streams [data-stream='main-2']").click()
        shows(page, "#spoken-none", "no such utterance")
        page.locator("#spoken-stream").select_option("all")
        wait_until(lambda: items.count() == 19, "all streams")
        assert "main" in items.first.inner_text()
        seqs = itertools.count(2000)
        with sending(lambda: site[1].send(live(next(seqs), stream="main-2"))):
            assert violations(page) == []
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")


def test_tour_theme_and_language_are_kept(chromium: Any, site: tuple[Dashboard, Publisher]) -> None:
    with opened(chromium, site[0].url, locale="fr-CA") as page:
        shows(page, "#tour-count", "étape 1 sur 3")
        assert page.evaluate("document.documentElement.lang") == "fr"
        for _ in range(3):
            page.locator("#tour-next").click()
        page.locator("#tour").wait_for(state="hidden")
        page.locator("#help-open").click()
        page.locator("#theme").select_option("dark")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(15, 18, 22)"
        assert page.locator("meta[name=theme-color]").first.get_attribute("content") == "#0f1216"
        with page.expect_navigation():
            page.locator("#language").select_option("pl")
        shows(page, "#help-open", "Pomoc")
        assert page.evaluate("document.documentElement.lang") == "pl"
        page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{dark}'")
        assert page.locator("#tour").is_hidden()
        with sending(lambda: site[1].send(dataclasses.replace(live(5000), stream="main"))):
            page.locator("#streams [data-stream=main]").click()
            shows(page, "#emotion", "smutek")


@pytest.mark.slow
def test_the_page_opens_while_its_server_is_away(
    chromium: Any, site: tuple[Dashboard, Publisher]
) -> None:
    with opened(chromium, site[0].url, mortal=True) as page:
        active = "async () => (await navigator.serviceWorker.getRegistration())?.active != null"
        wait_until(lambda: page.evaluate(active), "the service worker")
        kept = page.evaluate(
            """async () => (await Promise.all((await caches.keys()).map(async (name) =>
            (await (await caches.open(name)).keys()).map((one) => one.url)))).flat()"""
        )
        assert len(kept) > 30
        assert not any("/api/" in url for url in kept)
        site[0].end()
        try:
            page.reload()
            shows(page, "#pill", "Disconnected")
            shows(page, "#banner", "lost the connection")
        finally:
            site[0].start()
        with sending(lambda: site[1].send(dataclasses.replace(live(9000), stream="main"))):
            wait_until(lambda: "main" in page.title(), "the stream of the new server")
