"""Servers of the live page and a real browser to look at it with."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from tests.support.live_page import INFO
from tests.support.pipelines import PATIENCE_S, ROOT, wait_until
from tests.support.publisher import Publisher, health
from tools.ports import free_port

TOKEN = "a-token-of-enough-length"
API = "/api/v1"


def answers(port: int) -> bool:
    """Whether the page's server answers."""
    try:
        return get(port, "/token.css")[0] in (200, 304)
    except (OSError, http.client.HTTPException):  # it may be killed in the middle of an answer
        return False


def get(
    port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; for an event stream the first event."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
            connection.putheader("Content-Type", "application/x-www-form-urlencoded")
        connection.endheaders(body.encode() or None)
        response = connection.getresponse()
        fields = {name.lower(): value for name, value in response.getheaders()}
        endless = fields.get("content-type", "").startswith("text/event-stream")
        if not endless:
            return response.status, fields, response.read()
        while (line := response.readline()) and not line.startswith(b"data: "):
            pass
        return response.status, fields, line
    finally:
        connection.close()


def post_json(port: int, path: str, body: object, **headers: str) -> tuple[int, str]:
    """Status and body of a POST; `_` in the name of a header stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, content, given)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def greeting(port: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The first event for a new page: the present."""
    status, _, line = get(port, f"{API}/events", headers)
    assert status == 200, line
    table: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return table


def latest(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The newest result of each stream that has one."""
    return [stream["latest"] for stream in state["streams"] if stream["latest"]]


class Dashboard:
    """`python -m dashboard` beside a publisher."""

    def __init__(
        self, endpoint: str, *flags: str, token: str | None = None, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.command = [
            *(sys.executable, "-m", "dashboard", "--results", endpoint),
            *(f"--listen=127.0.0.1:{self.port}", *flags),
        ]
        self._env = {**os.environ, **({"SEP_DASHBOARD__TOKEN": token} if token else {})}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, cwd=ROOT, env=self._env)
        wait_until(lambda: answers(self.port) or self.process.poll() is not None, "the page")
        assert self.process.poll() is None

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


def new_context(chromium: Any, **options: Any) -> Any:
    """A new context of a browser; its pages have time on a busy machine."""
    space = chromium.new_context(**options)
    space.set_default_timeout(PATIENCE_S * 1000.0)
    return space


@contextmanager
def opened(chromium: Any, url: str, *, mortal: bool = False, **context: Any) -> Iterator[Any]:
    """A page in a new context; a message on the browser's console fails the test.

    Args:
        mortal: the server may end; the browser reports the failed requests.
    """
    space = new_context(chromium, **context)
    page = space.new_page()
    console: list[str] = []
    page.on("console", lambda m: console.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: console.append(f"error: {e}"))
    page.goto(url)
    page.console_lines = console
    yield page
    space.close()
    assert [line for line in console if not (mortal and "net::ERR_" in line)] == []


@contextlib.contextmanager
def dashboard(publisher: tuple[Publisher, str], *flags: str, **more: Any) -> Iterator[Dashboard]:
    """A page's server that has the stream `main`."""
    server = Dashboard(publisher[1], *flags, **more)
    try:
        publisher[0].wait_for()
        publisher[0].send(INFO)
        publisher[0].send(stamped(health()))
        with publisher[0].repeating_health():
            yield server
    finally:
        server.end()


def stamped(message: public.Health) -> public.Health:
    return dataclasses.replace(message, time=time.time())


def text(page: Any, selector: str) -> str:
    content: str = page.locator(selector).inner_text()
    return content


def shows(page: Any, selector: str, wanted: str | re.Pattern[str]) -> None:
    """Wait until an element contains a text."""
    page.locator(selector).filter(has_text=wanted).first.wait_for(timeout=PATIENCE_S * 1000.0)


def titled(page: Any, title: str) -> None:
    """Wait until the page has a title."""
    wait_until(lambda: bool(page.title() == title), f"the title {title!r}")


def violations(page: Any) -> list[tuple[str, list[str]]]:
    """What axe-core finds on a page with current values: old ones are drawn pale.

    A busy machine can hold the values back for seconds; then the page is looked at again.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page.evaluate(
        """() => { window.old = 0;
        new MutationObserver(() => { old += document.body.matches(".old"); })
          .observe(document.body, {attributeFilter: ["class"]}); }"""
    )
    found: list[tuple[str, list[str]]] = []

    def looked_at() -> bool:
        before = page.evaluate("old")
        page.locator("body:not(.old)").wait_for()
        rows = axe.Axe().run(page).response["violations"]
        found[:] = [(row["id"], [node["html"][:120] for node in row["nodes"]]) for row in rows]
        return bool(page.evaluate("old") == before)

    wait_until(looked_at, "the values to stay current")
    return found


STATIC = Path(ROOT, "dashboard", "static")
