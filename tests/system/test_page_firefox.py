"""The page in Debian's Firefox: what the other modules show in Chromium.

`make test` runs the first case, `make test-combinations` the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import TOKEN, Dashboard, opened, violations
from tests.support.pipelines import wait_until
from tests.support.publisher import Publisher, publishing
from tests.system import (
    test_page,
    test_page_days,
    test_page_look,
    test_page_mute,
    test_page_tabs,
    test_review,
)
from tools.browser import FIREFOX, firefox

pytestmark = [
    pytest.mark.skipif(FIREFOX is None, reason="needs Firefox: deploy/setup.sh dev installs it"),
    pytest.mark.xdist_group("firefox"),
]
TABS = 7
"""More than the connections that a browser opens to one host."""


def pointer(capabilities: int) -> dict[str, int]:
    """Preferences of an input device: 1 is coarse, 2 is fine, 4 can hover."""
    return {f"ui.{kind}PointerCapabilities": capabilities for kind in ("primary", "all")}


MOUSE = {**pointer(2 + 4), "network.http.keep-alive.timeout": 1}
"""Some tests wait until the server has no connection."""
BROWSERS = {
    "touch": (pointer(1), "(pointer: coarse)", ["phone", "narrow"]),
    "forced": ({"browser.display.document_color_use": 2}, "(forced-colors: active)", ["forced"]),
}
"""Preferences of a browser, a media query that they make true, and the looks that need them."""


@pytest.fixture(scope="module")
def chromium(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Firefox, for tests that ask for the other one."""
    with firefox(getattr(request, "param", MOUSE)) as one:
        yield one


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Dashboard, Publisher]]:
    with test_page_days.site_of_days(tmp_path_factory.mktemp("days")) as one:
        yield one


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return test_page_mute.state_in(tmp_path)


def zoomed(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    check_look(chromium, publisher, "zoomed to 200 %")


def review(chromium: Any, tmp_path: Path) -> None:
    with test_review.site_in(tmp_path, 3) as site:
        test_review.fill(site, 3)
        with opened(chromium, f"{site.url}?token={TOKEN}") as page:
            page.goto(f"{site.url}review.html")
            page.locator("#kept li").first.wait_for()
            assert violations(page) == []
            test_review.press(page.locator("#kept li button").nth(1))
            wait_until(site.labels.exists, "the label")


def tabs(chromium: Any, publisher: tuple[Publisher, str]) -> None:
    test_page_tabs.check_tabs(chromium, publisher, TABS)


check_look = test_page_look.test_axe_core_finds_nothing_and_nothing_leaves_the_screen
CASES = [
    test_page.test_what_is_published_is_shown,
    test_page.test_faults_are_shown_as_text,
    test_page.test_a_pipeline_that_stopped_has_no_data,
    test_page.test_streams_are_tabs,
    test_page.test_the_past_is_scrolled_through,
    test_page_look.test_it_is_light,
    test_page_look.test_a_long_time_is_shown_as_shares_and_counts,
    test_page_days.test_after_a_restart_the_last_minutes_come_from_the_history,
    test_page_days.test_heat_map_comparison_and_list,
    test_page_days.test_tour_theme_and_language_are_kept,
    test_page_mute.test_a_person_mutes_and_unmutes,
    zoomed,
    review,
    tabs,
    pytest.param(test_page_look.test_it_is_painted_within_a_second, marks=pytest.mark.slow),
    pytest.param(
        test_page_tabs.test_a_tab_that_slept_for_eight_hours_is_live_at_once,
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.costly_cases
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__.removeprefix("test_"))
def test_in_firefox(case: Any, request: pytest.FixtureRequest) -> None:
    case(**{name: request.getfixturevalue(name) for name in inspect.signature(case).parameters})


@pytest.mark.combination
@pytest.mark.parametrize(
    ("chromium", "kind"), [(BROWSERS[kind][0], kind) for kind in BROWSERS], indirect=["chromium"]
)
def test_each_look(chromium: Any, kind: str) -> None:
    _, query, looks = BROWSERS[kind]
    context = chromium.new_context()
    assert context.new_page().evaluate(f"matchMedia('{query}').matches")
    context.close()
    for look in looks:
        with publishing() as publisher:
            check_look(chromium, publisher, look)
