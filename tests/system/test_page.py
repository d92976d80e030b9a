"""The page in a real browser, with a real pipeline or a publisher of the test.

A message on the browser's console fails the test.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_result
from tests.support.live_page import INFO, live
from tests.support.pages import (
    TOKEN,
    Dashboard,
    dashboard,
    new_context,
    opened,
    shows,
    stamped,
    text,
    titled,
)
from tests.support.pipelines import Running, wait_until
from tests.support.publisher import Publisher, health
from tools.browser import CHROMIUM

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("chromium"),
]
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}


def level_share(page: Any) -> float:
    """The level meter's share, 0 to 1."""
    script = "e => new DOMMatrix(getComputedStyle(e).transform).a"
    share: float = page.locator("#meter .fill").evaluate(script)
    return share


# With a publisher of the test -------------------------------------------------------------------


def test_what_is_published_is_shown(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(live(0))
        shows(page, "#emotion", "sad")
        shows(page, "#confidence", "75 %")
        assert text(page, "#level-number") == "−20"
        wait_until(lambda: abs(level_share(page) - 0.75) < 0.01, "the meter")
        titled(page, "sad · main")
        shows(page, "#source", "The microphone is live")
        shows(page, "#voice", "opens at -40 dBFS")
        assert page.locator("#meter .gate").is_visible()

        doubt = {"emotion": "uncertain", "reason": "low_margin", "confidence": 0.6}
        assert not page.locator("#baseline").is_visible()
        publisher[0].send(live(1, **doubt, rms_db=-40.0, baseline=0.0))
        shows(page, "#emotion", "uncertain")
        shows(page, "#baseline", "Not adapted yet")
        shows(page, "#confidence", "leans to angry, 75 %: no emotion is probable enough")
        wait_until(lambda: abs(level_share(page) - 0.5) < 0.01, "the meter")

        assert not page.locator("#why").is_visible()
        quality = {"snr_db": 6.2, "bandwidth_hz": 3750.0, "dc": 0.0, "dropouts_per_min": 2.0}
        noisy = dataclasses.replace(health().streams[0], quality=quality)
        publisher[0].send(stamped(dataclasses.replace(health(), streams=[noisy])))
        shows(page, "#why", "nearly as loud as the speech (6 dB between them)")
        heard = "6 dB between its loud and its quiet parts, up to 3.8 kHz, 2 dropouts a minute"
        shows(page, "#source", heard)
        # An unknown reason gets a text as well.
        publisher[0].send(live(2, emotion="uncertain", reason="too_many_voices", baseline=250.0))
        shows(page, "#confidence", "too many voices")
        shows(page, "#baseline", "Adapted to this room: 4 min of speech")
        publisher[0].send(live(3, emotion="uncertain", reason="clipped", rms_db=-1.0))
        page.locator("#clip").wait_for()
        assert page.locator("#dimensions").count() == 0
        assert page.locator("#dimensions-chart").is_hidden()
        publisher[0].send(live(4, dimensions={"arousal": 0.625}))
        shows(page, "#dimensions", "arousal")
        assert text(page, "#dimensions .number") == "0.63"
        page.locator("#dimensions-chart canvas").wait_for()
        quiet = {"state": "silence", "emotion": None, "confidence": None, "smoothed": None}
        publisher[0].send(live(5, **quiet, rms_db=-100.0))
        shows(page, "#emotion", "silence")
        assert text(page, "#dimensions .number") == "–"
        assert text(page, "#level-number") == "−∞"
        assert not page.locator("#clip").is_visible()

        spoken = public.Utterance(
            *("main", "a", 5, 0, 24000, 16000, time.time(), "sad", 0.75),
            *({"angry": 0.25, "sad": 0.75}, None, 2, "b@1"),
        )
        publisher[0].send(spoken)
        doubtful: dict[str, Any] = {
            "seq": 6,
            "start": 8000,
            "emotion": "uncertain",
            "reason": "not_speech",
        }
        publisher[0].send(dataclasses.replace(spoken, **doubtful))
        shows(page, "#utterances", "it does not sound like speech")
        shows(page, "#utterances", "sad")
        assert "1.5 s" in text(page, "#utterances")
        seq = iter(range(7, 10000))

        def announced() -> bool:
            publisher[0].send(live(next(seq), **quiet))  # a stale stream is announced as well
            time.sleep(0.1)
            return "Utterance: uncertain, 75 percent" in text(page, "#announcer")

        wait_until(announced, "the utterance to be announced")


def test_faults_are_shown_as_text(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(live(0))
        shows(page, "#pill", "Live")
        page.locator("#banner").wait_for(state="hidden")
        publisher[0].send(live(1))
        publisher[0].send(stamped(health(stage="restarting")))
        shows(page, "#pill", "Degraded")
        shows(page, "#banner", "The model stage stopped unexpectedly and is restarting (")
        shows(page, "#stages", "broke")
        assert page.locator("#stages tr[data-fine=false]").count() == 1
        silent = health(source="silent_input")
        row = dataclasses.replace(silent.streams[0], state_s=40.0, reason="digital silence")
        publisher[0].send(stamped(dataclasses.replace(silent, streams=[row])))
        shows(page, "#source", re.compile("The microphone has been silent for 4[0-9] s"))
        clips = dataclasses.replace(health().streams[0], reason="clipping: 3%", clipped=0.03)
        publisher[0].send(stamped(dataclasses.replace(health(), streams=[clips])))
        publisher[0].send(live(2))
        shows(page, "#source", "is live, but clipping")
        page.locator("#clip").wait_for()
        publisher[0].send(stamped(health(source="on_fire")))
        shows(page, "#source", "has been on fire")
        assert page.locator("#source").get_attribute("data-fine") == "false"


def test_the_microphone_of_a_device_is_one_click_away(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    link = "#microphone"
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(live(0))
        shows(page, "#pill", "Live")
        assert not page.locator(link).is_visible()
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("box", "box")):
            info = dataclasses.replace(INFO, source=f"listen:wss://{host}:8770/kitchen")
            publisher[0].send(info)
            page.locator(f"{link}[href='https://{shown}:8770/kitchen']").wait_for()
        publisher[0].send(INFO)
        page.locator(link).wait_for(state="hidden")
        cancels = dataclasses.replace(health().streams[0], state="cancelled", state_s=7.0)
        publisher[0].send(stamped(dataclasses.replace(health(), streams=[cancels])))
        cancelled = "has been silent for [0-9]+ s: its channels cancel each other"
        shows(page, "#source", re.compile(cancelled))


def test_a_pipeline_that_stopped_has_no_data(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    quiet = {"state": "silence", "emotion": None, "confidence": None, "smoothed": None}
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(live(0, **quiet))
        shows(page, "#emotion", "silence")
        titled(page, "silence · main")
        publisher[0].fall_silent()
        shows(page, "#emotion", "no data")  # nothing is published any more
        shows(page, "#pill", "No data")
        shows(page, "#confidence", "Is the pipeline running?")
        titled(page, "⚠ No data · main")
        with publisher[0].repeating_health():
            publisher[0].send(live(1, **quiet))
            shows(page, "#emotion", "silence")
            titled(page, "silence · main")


@pytest.mark.slow
def test_streams_are_tabs(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(live(0))
        shows(page, "#emotion", "sad")  # it is the first stream
        names: tuple[str, ...] = ("main", "main-10", "main-2", "hall", "kitchen")
        rows = [health(name).streams[0] for name in names]
        publisher[0].send(stamped(dataclasses.replace(health(), streams=rows)))
        seqs = itertools.count(2, 2)

        def shown(selector: str, label: str) -> bool:
            """Keep every stream live: `sad`, and `angry` in the hall."""
            seq = next(seqs)
            for name in names:
                publisher[0].send(live(seq + (name == "hall"), stream=name))
            time.sleep(0.1)
            return label in text(page, selector)

        wait_until(lambda: shown("#streams [data-stream=kitchen]", "sad"), "the kitchen's tab")
        tabs = page.locator("#streams [role=tab] .name").all_inner_texts()
        assert tabs == ["hall", "kitchen", "main", "main-2", "main-10"]
        wait_until(lambda: shown("#streams [data-stream=hall]", "angry"), "the hall's tab")
        wait_until(lambda: shown("#emotion", "sad"), "the first stream")
        page.locator("[data-stream=main]").focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        wait_until(lambda: shown("#emotion", "angry"), "the chosen stream")
        assert page.evaluate("document.activeElement.dataset.stream") == "hall"
        selected = page.locator("[role=tab][aria-selected=true]")
        assert [selected.count(), selected.get_attribute("data-stream")] == [1, "hall"]
        # A removed stream disappears.
        publisher[0].send(stamped(dataclasses.replace(health(), streams=rows[:1])))
        names = names[:1]
        wait_until(lambda: shown("#emotion", "sad"), "the stream that is left")
        page.locator("#streams").wait_for(state="hidden")


def test_foreign_names_and_texts_are_not_html(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    evil = "<img src=x onerror=alert(1)>"
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        publisher[0].send(dataclasses.replace(INFO, source=evil, bundle=evil))
        smoothed = {evil: 0.75, "sad": 0.25}
        publisher[0].send(live(0, emotion=evil, smoothed=smoothed, bundle=evil))
        shows(page, "#emotion", evil)
        stage = public.StageHealth(evil, 1, "failed", 0, 0.1, 2.0, 9.0, 0, 1.0, 50.0, evil)
        publisher[0].send(stamped(dataclasses.replace(health(), stages=[stage])))
        shows(page, "#stages", evil)
        assert page.locator("img").count() == 0


@pytest.mark.slow
def test_it_can_be_used_without_a_mouse_and_read_aloud(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    with dashboard(publisher) as server, opened(chromium, server.url) as page:
        for seq in range(4):
            publisher[0].send(live(seq))
        shows(page, "#emotion", "angry")
        # Every control has a name, and the level has a text.
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, [role=meter], [role=img]")]
            .filter((e) => e.offsetParent && !(e.getAttribute("aria-label") || e.title
              || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
            .map((e) => e.outerHTML)"""
        )
        assert nameless == []
        assert page.locator("#meter").get_attribute("aria-valuetext") == "-20 decibels"
        assert page.locator("[aria-live]").count() == 1
        # At most one announcement in five seconds.
        page.evaluate(
            """() => {
            window.announced = [];
            new MutationObserver(() => announced.push(performance.now()))
              .observe(document.getElementById("announcer"), {childList: true}); }"""
        )
        for seq in range(4, 40):
            publisher[0].send(live(seq))
            spoken = public.Utterance(
                *("main", "a", seq, 8000 * seq, 8000 * seq + 8000, 16000, time.time(), "sad", 0.7),
                *({"angry": 0.3, "sad": 0.7}, None, 1, "b@1"),
            )
            publisher[0].send(dataclasses.replace(spoken, confidence=0.6 + seq / 100))
            time.sleep(0.2)
        wait_until(lambda: page.evaluate("announced.length") > 1, "two announcements")
        announced = page.evaluate("announced")
        assert all(after - before > 4900 for before, after in itertools.pairwise(announced))
        page.locator("#ribbon").focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        shows(page, "#reading", "dBFS")
        for _ in range(5):
            if page.evaluate("document.activeElement.id") != "card-open":
                page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator("dialog[open]").wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")
        # This bundle has no model card; the browser reports the 404.
        assert [line for line in page.console_lines if "404" not in line] == []
        page.console_lines.clear()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(chromium: Any, publisher: tuple[Publisher, str], scheme: str) -> None:
    with dashboard(publisher) as server:
        look: dict[str, Any] = {**PHONE, "color_scheme": scheme}
        with opened(chromium, server.url, **look) as page:
            publisher[0].send(live(0))
            shows(page, "#emotion", "sad")
            widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert widths[0] <= widths[1]
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(map(int, background[4:-1].split(","))) > 3 * 128
            assert light == (scheme == "light")


@pytest.mark.slow
def test_contrast_of_texts(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    """WCAG's contrast in both schemes: 4.5 for text, 3 for large text and shapes."""
    with dashboard(publisher) as server:
        for scheme in ("light", "dark"):
            with opened(chromium, server.url, color_scheme=scheme) as page:
                ratios = page.evaluate(
                    """() => {
                    const light = (css) => { const d = document.createElement("i");
                      d.style.color = `var(${css})`; document.body.append(d);
                      const parts = getComputedStyle(d).color.match(/[0-9.]+/g).map(Number);
                      d.remove();
                      const [r, g, b] = parts.map((v) => (v /= 255) <= 0.04045 ? v / 12.92
                        : ((v + 0.055) / 1.055) ** 2.4);
                      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
                    const ratio = (a, b) => { const [x, y] = [light(a), light(b)];
                      return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05); };
                    return ["--ink", "--muted", "--bad", "--accent", "--faint"].map((name) =>
                      [name, Math.min(ratio(name, "--card"), ratio(name, "--bg"))]); }"""
                )
                assert len(ratios) == 5
                least = {"--faint": 3.0}
                assert {name: r for name, r in ratios if r < least.get(name, 4.5)} == {}


# History -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_past_is_scrolled_through(
    chromium: Any, publisher: tuple[Publisher, str], tmp_path: Path
) -> None:
    path = tmp_path / "h.sqlite"
    writer = HistoryWriter(path)
    begin = time.time() - 3000.0
    rows = [dataclasses.replace(make_result(seq), time=begin + seq / 2) for seq in range(3000)]
    writer.write([(row, 0.0) for row in rows])
    spoken = public.Utterance(
        *("main", "a", 7, 0, 24000, 16000, begin + 60.0, "sad", 0.91),
        *({"angry": 0.09, "sad": 0.91}, None, 2, "b@1"),
    )
    writer.write([(spoken, 0.0)])
    writer.close()
    rows_shown = "document.getElementById('ribbon').getAttribute('aria-label')"
    with (
        dashboard(publisher, f"--history={path}") as server,
        opened(chromium, server.url) as page,
    ):
        publisher[0].send(live(5000))
        shows(page, "#emotion", "sad")
        page.locator("#past input[value='3600']").check()
        shows(page, "#past-title", "Last hour")
        shows(page, "#utterances", "91 %")
        page.locator("#past input[value='300']").check()
        shows(page, "#past-title", "Last five minutes")
        page.locator("#earlier").click()
        shows(page, "#past-title", "Five minutes until")
        assert page.locator("#live").get_attribute("aria-pressed") == "false"
        publisher[0].send(live(5002))
        shows(page, "#emotion", "sad")  # the card `Now` stays live
        with page.expect_download() as download:
            page.locator("#csv").click()
        assert download.value.suggested_filename.startswith("result-main-")
        with page.expect_download() as download:
            page.locator("#csv-utterances").click()
        assert download.value.suggested_filename.startswith("utterance-main-")
        page.locator("#ribbon").focus()
        page.keyboard.press("End")
        shows(page, "#past-title", "Last five minutes")
        assert page.evaluate(rows_shown)


# Access control ----------------------------------------------------------------------------------


def test_a_page_of_another_origin_gets_nothing(
    chromium: Any, publisher: tuple[Publisher, str]
) -> None:
    """A page of another origin in the same browser cannot read anything of ours."""
    with dashboard(publisher, token=TOKEN) as server:
        space = new_context(chromium)
        page = space.new_page()
        page.goto(server.url)
        shows(page, "h1", "Access token")
        page.fill("#token", "wrong wrong wrong wrong")
        with page.expect_navigation():  # the next page looks the same
            page.click("button")
        shows(page, "h1", "Access token")
        page.fill("#token", TOKEN)
        page.click("button")
        page.locator("#pill").wait_for()
        assert page.url == server.url
        other_page = space.new_page()
        other_server = Dashboard(publisher[1])
        try:
            other_page.goto(other_server.url)
            answers_read = other_page.evaluate(
                """async (url) => {
                const read = (path, how) =>
                  fetch(url + path, how).then((a) => a.text(), () => null);
                const pushed = new Promise((done) => {
                  const s = new EventSource(url + "api/v1/events");
                  s.onopen = () => done("open"); s.onerror = () => done(null); });
                const socket = new Promise((done) => { let s;
                  try { s = new WebSocket(url.replace("http", "ws") + "api/v1/events"); }
                  catch { return done(null); }
                  s.onopen = s.onmessage = () => done("open"); s.onerror = () => done(null); });
                return [await read("api/v1/recent?stream=main", {credentials: "include"}),
                  await read("api/v1/events", {mode: "no-cors"}), await pushed, await socket]; }""",
                server.url,
            )
        finally:
            other_server.end()
        # The response in mode no-cors is opaque: an empty text.
        assert answers_read in ([None, None, None, None], [None, "", None, None])
        space.close()
