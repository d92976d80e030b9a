"""The last minutes on the page: read while further messages arrive, and an hour of them."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from speech_emotion.common.wire import public
from tests.support.live_page import live
from tests.support.pages import dashboard, opened, shows, stamped, text
from tests.support.pipelines import wait_until
from tests.support.publisher import Publisher, health
from tools.browser import CHROMIUM

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("chromium"),
]


def test_what_arrives_while_the_last_minutes_are_read_is_shown(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    held: list[tuple[Any, Any]] = []
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        page.route("**/recent?*", lambda route: held.append((route, route.fetch())))
        page.reload()
        wait_until(lambda: bool(page.title() and held), "the request for the last minutes")
        publisher[0].send(live(0))
        shows(page, "#emotion", "sad")
        spoken = public.Utterance(
            *("main", "a", 5, 0, 24000, 16000, time.time(), "sad", 0.64),
            *({"angry": 0.36, "sad": 0.64}, None, 2, "b@1"),
        )
        publisher[0].send(spoken)
        shows(page, "#utterances", "64 %")
        publisher[0].send(live(1))
        shows(page, "#emotion", "angry")
        for route, answer in held:
            route.fulfill(response=answer)
        page.unroute("**/recent?*")
        page.locator("#ribbon").focus()

        def read(key: str, label: str) -> bool:
            page.keyboard.press(key)
            return label in text(page, "#reading")

        wait_until(lambda: read("ArrowLeft", "sad ("), "the first result in the chart")
        wait_until(lambda: read("ArrowRight", "angry ("), "the second one")
        assert "64 %" in text(page, "#utterances")


@pytest.mark.slow
@pytest.mark.timeout(400)  # 18,000 messages
def test_an_hours_worth_of_data_keeps_memory_flat(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    """When the five minutes are full, the messages of one more hour do not grow the heap."""
    seq = 0

    def publish(count: int) -> None:
        nonlocal seq
        for _ in range(count):
            publisher[0].send(live(seq))
            if seq % 2 == 0:
                counters = {"results_accepted": seq}
                publisher[0].send(stamped(dataclasses.replace(health(), counters=counters)))
            if seq % 20 == 0:
                spoken = public.Utterance(
                    *("main", "a", seq, 8000 * seq, 8000 * seq + 8000, 16000, time.time(), "sad"),
                    *(0.7, {"angry": 0.3, "sad": 0.7}, None, 1, "b@1"),
                )
                publisher[0].send(spoken)
            seq += 1
            time.sleep(0.004)

    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        session = page.context.new_cdp_session(page)

        def measured(level: int) -> tuple[float, int]:
            publisher[0].send(live(seq, rms_db=-float(level)))
            shows(page, "#level-number", f"−{level}")  # the last result
            time.sleep(2.0)
            for _ in range(3):
                session.send("HeapProfiler.collectGarbage")
            heap = session.send("Runtime.getHeapUsage")["usedSize"] / 2**20
            nodes = page.evaluate("document.querySelectorAll('*').length")
            return heap, nodes

        publish(4500)
        before, nodes_before = measured(33)
        publish(7200)
        after, nodes_after = measured(44)
        print(f"heap {before:.2f} MiB, an hour later {after:.2f} MiB")
        assert after - before < 0.5
        assert abs(nodes_after - nodes_before) < 20
