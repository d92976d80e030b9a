"""The page in a real browser with a real pipeline: sound, killed stages, restarts."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import Dashboard, answers, opened, shows, text
from tests.support.pipelines import Running, wait_until
from tools.browser import CHROMIUM
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("chromium"),
]
BOUND_MS = 3000.0
"""Longest time until the page shows a change of the pipeline's state."""


def test_sound_becomes_words_on_the_page(chromium: Any, supervise: Supervise, clip: Clip) -> None:
    """The quick test: with a real pipeline the page changes with the sound."""
    port = free_port()
    running = supervise(f"--source=file:{clip(50.0, repeat=4)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    with opened(chromium, f"http://127.0.0.1:{port}/", mortal=True) as page:
        emotions: set[str] = set()
        levels: set[str] = set()
        labels = {"angry", "happy", "neutral", "sad", "uncertain"}

        def changed() -> bool:
            emotions.add(text(page, "#emotion"))
            levels.add(text(page, "#level-number"))
            return len(emotions & labels) >= 2 and "silence" in emotions and len(levels) >= 3

        wait_until(changed, "emotion and silence to change")
        # A busy machine can leave out windows, and hold results back.
        assert emotions <= {*labels, "silence", "waiting", "no data", "no sound"}
        shows(page, "#utterances li", "%")
        shows(page, "#health-summary", "All well")
        # It is open already where a stage was not ready when the page came.
        page.locator("#health:not([open]) > summary, #health[open] #stages").first.click()
        shows(page, "#stages", "infer")
        shows(page, "#bundle", "small@")
        page.click("#card-open")
        shows(page, "#card-text", "What it is for")
        page.keyboard.press("Escape")
        running.process.terminate()
        shows(page, "#pill", "Disconnected")
    code, stderr, _ = running.ended()
    assert code == 0, stderr


@pytest.mark.slow
def test_a_killed_stage_shows_and_heals(chromium: Any, supervise: Supervise, clip: Clip) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(40.0)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    with opened(chromium, f"http://127.0.0.1:{port}/") as page:
        shows(page, "#pill", "Live")
        row = page.locator("#stages tr").filter(has=page.locator("th", has_text="infer"))
        killed = time.monotonic()
        running.stages()["infer"].kill()
        row.locator("td[data-name=Restarts]", has_text="1").wait_for(timeout=BOUND_MS)
        assert time.monotonic() - killed < BOUND_MS / 1000.0
        shows(page, "#stages", "killed by signal 9")
        row.locator(".state", has_text="ready").wait_for(timeout=30000)
        shows(page, "#pill", "Live")
    running.process.terminate()
    assert running.ended()[0] == 0


@pytest.mark.slow
def test_a_stopped_pipeline_is_stale_and_comes_back(
    chromium: Any, supervise: Supervise, clip: Clip
) -> None:
    """The page's server runs apart from the pipeline, as on another machine."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    source = f"--source=file:{clip(60.0)}"
    running = supervise(source, f"--results={endpoint}")
    running.subscriber._stop_at = 0.0  # it has another endpoint
    server = Dashboard(endpoint)
    try:
        with opened(chromium, server.url) as page:
            shows(page, "#pill", "Live")
            stopped = time.monotonic()
            running.process.kill()
            page.locator("#pill[data-state=stale], #pill[data-state=gone]").wait_for(
                timeout=BOUND_MS
            )
            assert time.monotonic() - stopped < BOUND_MS / 1000.0
            shows(page, "#pill", "No data")
            shows(page, "#banner", "The values shown are")
            again = supervise(source, f"--results={endpoint}")
            again.subscriber._stop_at = 0.0
            shows(page, "#pill", "Live")
            again.process.terminate()
            again.process.wait()
    finally:
        server.end()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(running.endpoint.removeprefix("ipc://"))


@pytest.mark.slow
def test_the_page_survives_a_restart_of_its_server(
    chromium: Any, supervise: Supervise, clip: Clip
) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(40.0)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    with opened(chromium, f"http://127.0.0.1:{port}/", mortal=True) as page:
        shows(page, "#pill", "Live")
        page.evaluate("window.kept = true")
        running.stages()["dashboard"].kill()
        shows(page, "#pill", "Disconnected")
        shows(page, "#pill", "Live")
        before = text(page, "#emotion"), text(page, "#level-number")
        wait_until(
            lambda: (text(page, "#emotion"), text(page, "#level-number")) != before, "new results"
        )
        assert page.evaluate("window.kept")  # it was not reloaded
    running.process.terminate()
    assert running.ended()[0] == 0
