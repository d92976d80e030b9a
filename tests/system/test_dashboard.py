"""The page's server: access control, routes, slow readers, errors of the user."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_result
from tests.support.live_page import INFO, live
from tests.support.pages import STATIC, TOKEN, Dashboard, get, greeting, latest
from tests.support.pipelines import PATIENCE_S, ROOT, wait_until
from tests.support.publisher import Publisher, health, publishing
from tools.ports import free_port

pytestmark = pytest.mark.xdist_group("dashboard")  # its server is started once


@pytest.fixture(scope="module")
def publisher() -> Iterator[tuple[Publisher, str]]:
    with publishing() as one:
        yield one


@pytest.fixture(scope="module")
def page(publisher: tuple[Publisher, str]) -> Iterator[Dashboard]:
    one = Dashboard(publisher[1])
    publisher[0].wait_for()
    publisher[0].send(INFO)
    publisher[0].send(live(0))
    wait_until(lambda: bool(latest(greeting(one.port))), "the result to arrive")
    yield one
    assert one.end() == 0


@pytest.fixture(scope="module")
def locked(publisher: tuple[Publisher, str]) -> Iterator[Dashboard]:
    one = Dashboard(publisher[1], token=TOKEN)
    yield one
    assert one.end() == 0


SECRET = (b"angry", b"main", b"rows", b"kind")


PATHS = (
    *("/", "/page.js", "/api/v1/events", "/api/v1/recent?stream=main"),
    *("/api/v1/history?stream=main", "/api/v1/model-card"),
)


FOREIGN = {
    "another origin": {"Origin": "http://evil.example"},
    "another port of this host": {"Origin": "http://127.0.0.1:1"},
    "no origin": {"Origin": "null"},
    "an extension": {"Origin": "chrome-extension://abcdef"},
    "a rebound name": {"Host": "evil.example"},
    "a rebound name with its origin": {"Host": "evil.example", "Origin": "http://evil.example"},
    "a name with the same beginning": {"Host": "localhost.evil.example"},
    "a broken name": {"Host": "[::1"},
    "another site's script": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "another site's frame": {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "iframe",
    },
    "a page of the same site": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    "a socket": {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Origin": "http://evil.example",
    },
    "a socket without an origin": {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    },
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", FOREIGN)
def test_requests_of_other_origins_are_refused(page: Dashboard, case: str, path: str) -> None:
    status, headers, body = get(page.port, path, FOREIGN[case])
    assert status == 403
    assert b"refused" in body
    assert not any(word in body for word in SECRET)
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:1", "127.0.0.2"])
def test_requests_of_this_machine_are_answered(page: Dashboard, host: str) -> None:
    assert greeting(page.port, {"Host": host})["service"]["mute"] is False
    same = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert latest(greeting(page.port, same))[0]["emotion"] == "sad"


def test_a_link_of_another_site_opens_only_the_page(page: Dashboard) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    status, headers, _ = get(page.port, "/", link)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert get(page.port, "/api/v1/recent?stream=main", link)[0] == 403


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Authorization": "Bearer wrong-token-of-some-length"},
        {"Authorization": TOKEN},
        {"Cookie": f"sep_token={TOKEN}"},
        {"Cookie": 'sep_token="'},
        {"Cookie": "sep_token=ä".encode().decode("latin-1")},
    ],
    ids=str,
)
def test_requests_without_the_token_are_refused(
    locked: Dashboard, path: str, given: dict[str, str]
) -> None:
    status, headers, body = get(locked.port, path, given)
    assert status == 401
    assert not any(word in body for word in SECRET)
    assert "set-cookie" not in headers


def test_the_token_opens_the_page(locked: Dashboard) -> None:
    assert greeting(locked.port, {"Authorization": f"Bearer {TOKEN}"})["service"]["mute"] is False
    away = {"Host": "box.local:8765"}  # with a token any Host is accepted
    for path, method, body in (
        (f"/?token={TOKEN}", "GET", ""),
        ("/login", "POST", f"token={TOKEN}"),
    ):
        status, headers, _ = get(locked.port, path, away, method, body)
        assert (status, headers["location"]) == (303, "./")  # the token leaves the address bar
        cookie = headers["set-cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=lax"} <= set(cookie.replace("; ", ";").split(";"))
        shown = {**away, "Cookie": cookie.partition(";")[0]}
        assert greeting(locked.port, shown)["service"]["mute"] is False
        foreign = {**shown, "Origin": "http://evil.example"}
        assert get(locked.port, "/api/v1/events", foreign)[0] == 403
    assert get(locked.port, "/login", away, "POST", "token=wrong")[0] == 401
    assert get(locked.port, "/login", away, "POST", "token=" + "x" * 5000)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/history?stream=main", "/api/v1/history?format=csv", "/api/v1/summary"),
        *("/api/v1/model-card?bundle=x@12345678", "/api/v1/model-card", "/api/v1/nothing"),
        *("/events", "/recent", "/history", "/history.csv", "/mute", "/card"),
        *("/nothing", "/../pyproject.toml", "/%2e%2e/x"),
    ],
)
def test_a_missing_resource_is_one_line(page: Dashboard, path: str) -> None:
    status, _, body = get(page.port, path)
    assert status in (400, 404)
    assert len(body.splitlines()) <= 1


def test_history_and_wrong_queries(tmp_path: Path, publisher: tuple[Publisher, str]) -> None:
    path = tmp_path / "h.sqlite"
    writer = HistoryWriter(path)
    begin = time.time() - 100.0
    rows = [dataclasses.replace(make_result(seq), time=begin + seq) for seq in range(90)]
    writer.write([(row, 0.0) for row in rows])
    page = Dashboard(publisher[1], f"--history={path}")
    try:
        query = f"stream=main&from={begin - 1}&to={begin + 100}"
        status, _, body = get(page.port, f"/api/v1/summary?{query}")
        assert status == 200
        answer = json.loads(body)
        assert [row[0] for row in answer["rows"]] == list(range(90))
        assert answer["bounds"] == [begin, begin + 89]
        status, headers, body = get(page.port, f"/api/v1/history?{query}&format=csv")
        assert (status, len(body.splitlines())) == (200, 91)
        assert headers["content-disposition"].startswith('attachment; filename="result-main-')
        for wrong in (
            "from=nan",
            "to=1e999",
            "from=2026-11-28T09:00:00",
            "from=yesterday",
            "table=audio",
            "format=xml",
            "limit=0",
            "limit=5001",
            "after=1:2",
            "stream=a&stream=b",
            "begin=0",
            f"stream={'x' * 300}",
        ):
            status, _, body = get(page.port, f"/api/v1/history?{wrong}")
            assert (status, len(body.splitlines())) == (400, 1), wrong
            assert "error" in json.loads(body)
    finally:
        writer.close()
        assert page.end() == 0


def test_a_page_that_does_not_read_costs_no_memory(
    page: Dashboard, publisher: tuple[Publisher, str]
) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as unread:
        unread.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process = psutil.Process(page.process.pid)
        time.sleep(0.5)
        before = process.memory_info().rss
        big = {f"counter_{n}": n for n in range(2000)}
        for number in range(600):
            big["counter_0"] = number
            publisher[0].send(dataclasses.replace(health(), counters=big))
            time.sleep(0.002)
        wait_until(lambda: shown_counters(page) == big, "the last one")  # others are served
        assert process.memory_info().rss - before < 30 << 20


def shown_counters(page: Dashboard) -> dict[str, int]:
    counters: dict[str, int] = (greeting(page.port)["health"] or {"counters": {}})["counters"]
    return counters


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("flags", "token", "words"),
    [
        (["--listen", "0.0.0.0:1"], None, "token"),
        (["--listen", "box.local:1"], None, "token"),
        (["--listen", "127.0.0.1"], None, "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], None, "HOST:PORT"),
        (["--listen", "127.0.0.1:1x"], None, "HOST:PORT"),
        (["--listen", "192.0.2.1:8765"], TOKEN, "192.0.2.1:8765"),
        (["--listen", "127.0.0.1:TAKEN"], None, "already in use"),
        ([], "short", "SEP_DASHBOARD__TOKEN"),
        (["--results", "nonsense"], None, "nonsense"),
        (["--history", "/nonexistent.sqlite"], None, "/nonexistent.sqlite"),
    ],
    ids=str,
)
def test_an_error_of_the_user_is_one_line(flags: list[str], token: str | None, words: str) -> None:
    environment = {**os.environ, **({"SEP_DASHBOARD__TOKEN": token} if token else {})}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = [flag.replace("TAKEN", port) for flag in flags]
        if "--listen" not in flags:
            flags += ["--listen", f"127.0.0.1:{free_port()}"]
        done = subprocess.run(
            [sys.executable, "-m", "dashboard", *flags],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=PATIENCE_S,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
    if token == "short":
        assert "short" not in line


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "localhost.example", "10.0.0.1", "box")))


def test_no_page_loads_anything_from_elsewhere() -> None:
    files = [path for path in STATIC.rglob("*") if path.suffix in (".html", ".css", ".js", ".svg")]
    assert (STATIC / "vendor" / "uPlot-LICENSE").read_text().startswith("The MIT License")
    for path in files:
        text = path.read_text().replace("http://www.w3.org/", "")
        if not path.name.startswith("uPlot"):
            # HOST, HÔTE: the form of an address in the texts of the settings.
            assert not re.search("https?://(?!H(OS|Ô)T)", text), path
