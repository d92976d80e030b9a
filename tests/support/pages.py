"""Servers of the live page and a real browser to look at it with."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.pipelines import PATIENCE_S, ROOT, wait_until
from tools.browser import free_port

TOKEN = "a-token-of-enough-length"


def answers(port: int) -> bool:
    """Whether a page's server is there."""
    try:
        return get(port, "/token.css")[0] in (200, 304)
    except OSError:
        return False


def get(
    port: int, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; of an endless answer the first line."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
            connection.putheader("Content-Type", "application/x-www-form-urlencoded")
        connection.endheaders(body.encode() or None)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        endless = found.get("content-type", "").startswith("text/event-stream")
        if not endless:
            return answer.status, found, answer.read()
        answer.readline()  # the delay before a retry
        return answer.status, found, answer.readline()
    finally:
        connection.close()


def greeting(port: int, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """What a fresh page is told first."""
    status, _, line = get(port, "/events", headers)
    assert status == 200, line
    table: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return table


class Dashboard:
    """`python -m dashboard` beside a publisher."""

    def __init__(self, endpoint: str, *flags: str, token: str | None = None) -> None:
        self.port = free_port()
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


@contextmanager
def opened(chromium: Any, url: str, *, mortal: bool = False, **context: Any) -> Iterator[Any]:
    """A page in a fresh context; at its end nothing must have been complained of.

    Args:
        mortal: its server may go, of which the browser itself complains.
    """
    space = chromium.new_context(**context)
    page = space.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: complaints.append(f"error: {e}"))
    page.goto(url)
    page.complaints = complaints
    yield page
    space.close()
    assert [line for line in complaints if not (mortal and "net::ERR_" in line)] == []


STATIC = Path(ROOT, "dashboard", "static")
