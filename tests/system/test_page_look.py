"""What a person sees at once: whether it listens, what was heard last, how sure; and axe-core."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from bench.page import PAINT
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_result, make_utterance
from tests.support.live_page import INFO, live, sending
from tests.support.pages import dashboard, new_context, opened, shows, stamped, text, violations
from tests.support.pipelines import wait_until
from tests.support.publisher import Publisher, health
from tools.browser import CHROMIUM

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"
)
PAINT_MS, WEIGHT = 1000.0, 400_000
"""Aims: time of the first paint; bytes of all that the page loads."""
PAINTS = 10
"""Loads, of which one must be as quick: a busy machine is slow."""
QUIET = {"state": "silence", "emotion": None, "confidence": None, "smoothed": None}
LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
    "narrow": {"viewport": {"width": 320, "height": 640}, "is_mobile": True, "has_touch": True},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "forced": {"viewport": {"width": 1280, "height": 900}, "forced_colors": "active"},
    "zoomed to 200 %": {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},
}


def spoken(seq: int, **changes: Any) -> public.Utterance:
    utterance = public.Utterance(
        *("main", "a", seq, 8000 * seq, 8000 * seq + 24000, 16000, time.time(), "sad", 0.69),
        *({"angry": 0.31, "sad": 0.69}, None, 2, "b@1"),
    )
    return dataclasses.replace(utterance, **changes)


def test_silence_tells_what_was_heard_last(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(dataclasses.replace(INFO, min_confidence=0.6))
        publisher[0].send(live(0))
        shows(page, "#listening", "Listening")
        shows(page, "#confidence", "75 % likely, by the model’s own estimate")
        assert text(page, "#level-word") == "good"
        ticks = page.locator("#bars .track b")
        assert ticks.count() == 2
        assert ticks.first.evaluate("e => e.style.left") == "60%"
        page.locator("#trust").click()
        shows(page, "#trust-dialog", "the model’s own estimate")
        page.keyboard.press("Escape")
        publisher[0].send(spoken(1, time=time.time() - 8.0))
        publisher[0].send(live(2, **QUIET, rms_db=-60.0))
        shows(page, "#last", "last: sad 69 %")
        shows(page, "#last", "s ago")
        assert text(page, "#level-word") == "quiet"
        assert page.locator("#trust").is_hidden()
        publisher[0].send(live(3, rms_db=-1.0))
        shows(page, "#level-word", "too loud")
        publisher[0].send(live(4, rms_db=-60.0))
        shows(page, "#level-word", "too quiet")
        publisher[0].fall_silent()
        shows(page, "#listening", "Not listening")  # nothing is published any more


def test_uncertain_is_two_halves(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        smoothed = {"angry": 0.55, "sad": 0.45}
        doubt = {"emotion": "uncertain", "reason": "low_margin", "confidence": 0.55}
        publisher[0].send(live(0, **doubt, smoothed=smoothed))
        shows(page, "#emotion", "uncertain")
        halves = page.locator("#emotion svg use")
        names = "all => all.map((e) => e.getAttribute('href'))"
        wait_until(lambda: halves.evaluate_all(names) == ["#up", "#down"], "both halves")
        publisher[0].send(live(1))
        shows(page, "#emotion", "angry")
        whole = "all => all.map((e) => [e.getAttribute('href'), e.getAttribute('style')])"
        wait_until(lambda: halves.evaluate_all(whole) == [["#up", None]], "one whole")


def test_the_pipeline_is_one_line_until_something_is_wrong(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(live(0))
        shows(page, "#health-summary", "All well")
        assert page.locator("#stages").is_hidden()
        publisher[0].send(stamped(health(stage="restarting")))
        shows(page, "#health-summary", "not ready")
        page.locator("#stages").wait_for()


def loaded(chromium: Any, url: str) -> dict[str, float]:
    """Time of the first paint in ms, and bytes, of the page in a fresh profile."""
    with opened(chromium, url) as page:
        shows(page, "#emotion", "sad")
        timing: dict[str, float] = page.evaluate(PAINT)
    return timing


def test_it_is_light(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server:
        publisher[0].send(live(0))
        assert 50_000 < loaded(chromium, server.url)["bytes"] < WEIGHT


@pytest.mark.slow
def test_it_is_painted_within_a_second(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server:
        paints = []
        for seq in range(0, 2 * PAINTS, 2):
            publisher[0].send(live(seq))
            paints.append(loaded(chromium, server.url)["paint"])
        assert min(paints) < PAINT_MS, paints


@pytest.mark.slow
def test_a_long_time_is_shown_as_shares_and_counts(
    chromium: Any, publisher: tuple[Publisher, str], tmp_path: Path
) -> None:
    path = tmp_path / "h.sqlite"
    writer = HistoryWriter(path)
    begin = time.time() - 80_000.0
    for first in range(0, 40_000, 5000):
        seqs = range(first, first + 5000)
        rows = [
            dataclasses.replace(
                make_result(seq), time=begin + 2.0 * seq, dimensions={"arousal": float(seq % 2)}
            )
            for seq in seqs
        ]
        writer.write([(row, 0.0) for row in rows])
    utterances = [
        dataclasses.replace(make_utterance(seq), time=begin + 60.0 * seq) for seq in range(1, 1300)
    ]
    writer.write([(one, 0.0) for one in utterances])
    writer.close()
    with (
        dashboard(publisher, f"--history={path}") as server,
        opened(chromium, server.url) as page,
    ):
        publisher[0].send(live(50_000))
        shows(page, "#emotion", "sad")
        page.locator("#past input[value='86400']").check()
        shows(page, "#binned", "Each bar is 2 min")
        page.locator("#dimensions-chart canvas").wait_for()
        page.locator("#ribbon").focus()
        page.keyboard.press("ArrowLeft")
        shows(page, "#reading", "arousal 0.50")
        shows(page, "#utterances-title", "the newest 60 of 1,299")
        assert page.locator("#ribbon").get_attribute("aria-busy") in (None, "false")
        page.locator("#past input[value='300']").check()
        page.locator("#binned").wait_for(state="hidden")


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
def test_axe_core_finds_nothing_and_nothing_leaves_the_screen(
    chromium: Any, publisher: tuple[Publisher, str], look: str
) -> None:
    with dashboard(publisher) as server:
        context = new_context(chromium, **LOOKS[look], bypass_csp=True)
        page = context.new_page()
        page.goto(server.url)
        names = ("main", "hall")
        rows = [health(name).streams[0] for name in names]
        publisher[0].send(stamped(dataclasses.replace(health(), streams=rows)))
        for seq in range(30):
            publisher[0].send(spoken(100 + seq, time=time.time() - 60.0 + seq))

        seqs = itertools.count()

        def shown() -> bool:
            for name in names:
                publisher[0].send(live(next(seqs), stream=name))
            time.sleep(0.1)
            return "angry" in text(page, "#streams [data-stream=hall]")  # its numbers are odd

        wait_until(shown, "the page to show the streams")
        page.locator("#health summary").click()

        def send() -> None:
            for name in names:
                publisher[0].send(live(next(seqs), stream=name))

        with sending(send):
            assert violations(page) == []
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        outside = page.evaluate(
            """() => [...document.querySelectorAll('.card')].flatMap((card) =>
            [...card.querySelectorAll('*')].filter((e) => e.offsetParent !== null
              && !e.closest('.utterances, .uplot')
              && e.getBoundingClientRect().right > card.getBoundingClientRect().right + 1)
            .map((e) => e.outerHTML.slice(0, 100)))"""
        )
        assert outside == []
        if LOOKS[look].get("has_touch"):
            small = page.evaluate(
                """() => [...document.querySelectorAll('button, summary, .button, .segments span')]
                .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.9)
                .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect().height])"""
            )
            assert small == []
        context.close()
