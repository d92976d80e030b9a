"""The page's server: who gets what, what a fresh page is told, and that it harms nobody."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.browser import free_port
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.client.results import Event, Freshness, Status
from speech_emotion.common.wire import public
from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.dashboard.history import Reader, Writer
from speech_emotion.dashboard.live_state import RECENT_ROWS, STREAMS, UTTERANCES, LiveState
from speech_emotion.dashboard.model_cards import find_card, folders
from tests.support.history import heard, said
from tests.support.key_files import House
from tests.support.live_page import INFO, live
from tests.support.pages import STATIC, TOKEN, Dashboard, answers, get, greeting
from tests.support.pipelines import BUNDLE, PATIENCE_S, ROOT, Running, fresh_endpoint, wait_until
from tests.support.publisher import Publisher, health, result

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


def test_a_fresh_page_is_told_all_but_the_past() -> None:
    board = LiveState({"history": True})
    assert json.loads(board.greeting())["latest"] == []
    for message in (INFO, live(4), live(5), said(5), health()):
        assert board.take(Event(message, False)) is not None
    board.statuses({"": Status(Freshness.DEGRADED, "why", 0.5)})
    hello = json.loads(board.greeting())
    assert hello["kind"] == "hello"
    assert hello["history"] is True
    assert hello["infos"] == [public.to_json_map(INFO)]
    assert [one["row"][0] for one in hello["latest"]] == [5]
    assert hello["latest"][0]["labels"] == ["angry", "sad"]
    assert hello["health"] == public.to_json_map(health())
    assert hello["statuses"] == [{"stream": "", "state": "degraded", "reason": "why", "age_s": 0.5}]
    recent = json.loads(board.recent("main"))
    assert [row[0] for row in recent["rows"]] == [4, 5]
    assert recent["labels"] == ["angry", "sad"]
    assert [one["emotion"] for one in recent["utterances"]] == ["sad"]
    assert json.loads(board.recent("hall")) == {"labels": [], "rows": [], "utterances": []}


def test_replays_are_news_once_and_only_with_a_time() -> None:
    board = LiveState({})
    assert board.take(Event(result(3), True)) is None  # of unknown age
    assert board.take(Event(live(3), True)) is not None
    assert board.take(Event(live(3), True)) is None
    assert board.take(Event(live(4), False)) is not None
    assert board.take(Event(live(0, run="b"), False)) is not None  # started anew
    assert board.take(Event(INFO, False)) is not None
    assert board.take(Event(INFO, True)) is None


def test_the_board_stays_small_whatever_comes() -> None:
    board = LiveState({})
    for seq in range(RECENT_ROWS + 50):
        board.take(Event(live(seq), False))
        board.take(Event(said(seq), False))
    recent = json.loads(board.recent("main"))
    assert len(recent["rows"]) == RECENT_ROWS
    assert len(recent["utterances"]) == UTTERANCES
    for number in range(3 * STREAMS):
        name = f"s{number}"
        board.take(Event(live(0, stream=name), False))
        board.take(Event(dataclasses.replace(INFO, stream=name), False))
    hello = json.loads(board.greeting())
    assert len(hello["infos"]) == len(hello["latest"]) == STREAMS
    assert hello["latest"][-1]["stream"] == f"s{3 * STREAMS - 1}"


def test_old_windows_are_forgotten_and_another_model_begins_anew() -> None:
    board = LiveState({})
    board.take(Event(dataclasses.replace(heard(0), time=time.time() - 301.0), False))
    board.take(Event(live(1), False))
    assert [row[0] for row in json.loads(board.recent("main"))["rows"]] == [1]
    board.take(Event(live(2, smoothed={"calm": 0.5, "sad": 0.5}), False))
    recent = json.loads(board.recent("main"))
    assert (recent["labels"], [row[0] for row in recent["rows"]]) == (["calm", "sad"], [2])


def test_a_card_belongs_to_one_bundle(tmp_path: Path) -> None:
    card = find_card(load_bundle(BUNDLE).id, folders(None))
    assert card is not None
    assert "<table>" in card
    assert find_card("default@00000000", folders(None)) is None
    (tmp_path / "bundle.toml").write_text("")
    (tmp_path / "MODEL_CARD.md").write_text("<script>alert(1)</script> [x](javascript:alert(1))")
    card = find_card("x@e3b0c442", [tmp_path])  # SHA-256 of nothing
    assert card is not None
    assert "<script" not in card
    assert 'href="javascript' not in card


@pytest.fixture(scope="module")
def publisher() -> Iterator[tuple[Publisher, str]]:
    endpoint = fresh_endpoint()
    one = Publisher(endpoint)
    yield one, endpoint
    one.close()
    Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def page(publisher: tuple[Publisher, str]) -> Iterator[Dashboard]:
    one = Dashboard(publisher[1])
    publisher[0].wait_for()
    publisher[0].send(INFO)
    publisher[0].send(live(0))
    wait_until(lambda: bool(greeting(one.port)["latest"]), "the result to arrive")
    yield one
    assert one.end() == 0


@pytest.fixture(scope="module")
def locked(publisher: tuple[Publisher, str]) -> Iterator[Dashboard]:
    one = Dashboard(publisher[1], token=TOKEN)
    yield one
    assert one.end() == 0


SECRET = (b"angry", b"main", b"rows", b"kind")


PATHS = ("/", "/events", "/recent?stream=main", "/history?stream=main", "/page.js", "/card")


FOREIGN = {
    "another origin": {"Origin": "http://evil.example"},
    "another port of this host": {"Origin": "http://127.0.0.1:1"},
    "no origin": {"Origin": "null"},
    "an extension": {"Origin": "chrome-extension://abcdef"},
    "a rebound name": {"Host": "evil.example"},
    "a rebound name with its origin": {"Host": "evil.example", "Origin": "http://evil.example"},
    "a name that begins alike": {"Host": "localhost.evil.example"},
    "a broken name": {"Host": "[::1"},
    "another site's script": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "another site's frame": {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "iframe",
    },
    "a neighbour's page": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
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
@pytest.mark.parametrize("stranger", FOREIGN)
def test_strangers_get_nothing(page: Dashboard, stranger: str, path: str) -> None:
    status, headers, body = get(page.port, path, FOREIGN[stranger])
    assert status == 403
    assert body.startswith(b"refused")
    assert not any(word in body for word in SECRET)
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST:1", "127.0.0.2"])
def test_this_machine_is_answered(page: Dashboard, host: str) -> None:
    assert greeting(page.port, {"Host": host})["kind"] == "hello"
    same = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert greeting(page.port, same)["latest"][0]["row"][4] == "sad"


def test_a_link_elsewhere_opens_the_page_and_nothing_else(page: Dashboard) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    status, headers, _ = get(page.port, "/", link)
    assert status == 200
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert get(page.port, "/recent?stream=main", link)[0] == 403


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
def test_without_the_token_there_is_nothing(
    locked: Dashboard, path: str, given: dict[str, str]
) -> None:
    status, headers, body = get(locked.port, path, given)
    assert status == 401
    assert not any(word in body for word in SECRET)
    assert "set-cookie" not in headers


def test_the_token_opens_the_page(locked: Dashboard) -> None:
    assert greeting(locked.port, {"Authorization": f"Bearer {TOKEN}"})["kind"] == "hello"
    away = {"Host": "box.local:8765"}  # with a token the page may be anywhere
    for path, method, body in (
        (f"/?token={TOKEN}", "GET", ""),
        ("/login", "POST", f"token={TOKEN}"),
    ):
        status, headers, _ = get(locked.port, path, away, method, body)
        assert (status, headers["location"]) == (303, "/")  # the token leaves the address bar
        cookie = headers["set-cookie"]
        assert TOKEN not in cookie
        assert {"HttpOnly", "SameSite=lax"} <= set(cookie.replace("; ", ";").split(";"))
        shown = {**away, "Cookie": cookie.partition(";")[0]}
        assert greeting(locked.port, shown)["kind"] == "hello"
        foreign = {**shown, "Origin": "http://evil.example"}
        assert get(locked.port, "/events", foreign)[0] == 403
    assert get(locked.port, "/login", away, "POST", "token=wrong")[0] == 401
    assert get(locked.port, "/login", away, "POST", "token=" + "x" * 5000)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/history?stream=main&start=0&end=1", "/history.csv?stream=main&start=0&end=1"),
        *("/card?bundle=x@12345678", "/card", "/nothing", "/../pyproject.toml", "/%2e%2e/x"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(page: Dashboard, path: str) -> None:
    status, _, body = get(page.port, path)
    assert status in (400, 404)
    assert len(body.splitlines()) <= 1


def test_the_past_and_its_mistakes(tmp_path: Path, publisher: tuple[Publisher, str]) -> None:
    path = tmp_path / "h.sqlite"
    writer = Writer(path)
    begin = time.time() - 100.0
    rows = [dataclasses.replace(heard(seq), time=begin + seq) for seq in range(90)]
    writer.write([(row, 0.0) for row in rows])
    page = Dashboard(publisher[1], f"--history={path}")
    try:
        query = f"stream=main&start={begin - 1}&end={begin + 100}"
        status, _, body = get(page.port, f"/history?{query}")
        assert status == 200
        found = json.loads(body)
        assert [row[0] for row in found["rows"]] == list(range(90))
        assert found["bounds"] == [begin, begin + 89]
        status, headers, body = get(page.port, f"/history.csv?{query}")
        assert (status, len(body.splitlines())) == (200, 91)
        assert headers["content-disposition"].startswith('attachment; filename="result-main-')
        for wrong in (
            "stream=main&start=1&end=0",
            "stream=main&start=nan&end=1",
            "stream=main&start=0&end=1e300",
            "stream=main",
            f"{query}&what=audio".replace("history", ""),
            f"stream=main&start=0&end={begin}",
        ):
            where = "/history.csv" if "what" in wrong else "/history"
            status, _, body = get(page.port, f"{where}?{wrong}")
            assert (status, len(body.splitlines())) == (400, 1), wrong
    finally:
        writer.close()
        assert page.end() == 0


def test_a_page_that_reads_nothing_is_cut_off(
    page: Dashboard, publisher: tuple[Publisher, str]
) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as lazy:
        lazy.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        process = psutil.Process(page.process.pid)
        time.sleep(0.5)
        before = process.memory_info().rss
        big = {f"counter_{n}": n for n in range(2000)}
        for _ in range(600):
            publisher[0].send(dataclasses.replace(health(), counters=big))
            time.sleep(0.002)
        assert greeting(page.port)["health"]["counters"] == big  # others are served
        wait_until(lambda: closed(lazy), "the lazy page to be cut off")
        assert process.memory_info().rss - before < 100 << 20


def closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        while connection.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_the_page_lives_and_dies_beside_the_pipeline(supervise: Supervise, clip: Clip) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(16.0)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    wait_until(lambda: bool(greeting(port)["latest"]), "a result on the page")
    first = running.stages()["dashboard"]
    first.kill()
    wait_until(lambda: answers(port) and bool(greeting(port)["latest"]), "the page again")
    assert running.stages()["dashboard"].pid != first.pid
    hello = greeting(port)
    assert hello["infos"][0]["gate"] == "adaptive"
    assert {s["name"] for s in hello["health"]["stages"]} >= {"dashboard", "infer"}
    code, stderr, received = running.ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [one.seq for one in results] == list(range(len(results)))
    rows = [s for h in received.fresh(public.Health) for s in h.stages if s.name == "dashboard"]
    assert rows[-1].restarts == 1


def test_a_page_that_cannot_live_does_not_end_the_pipeline(
    supervise: Supervise, clip: Clip
) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(9.0)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    running.stages()["dashboard"].suspend()  # it must not give the port back before it is taken
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        running.stages()["dashboard"].kill()

        def stolen() -> bool:
            try:
                thief.bind(("127.0.0.1", port))
            except OSError:
                if (page := running.stages().get("dashboard")) is not None:
                    page.kill()
                return False
            thief.listen()
            return True

        wait_until(stolen, "the port")
        code, stderr, received = running.ended()
    assert code == 0, stderr
    assert "already in use" in stderr
    results = received.fresh(public.Result)
    assert [one.seq for one in results] == list(range(len(results)))


def test_a_stopped_pipeline_ends_with_pages_open(supervise: Supervise, clip: Clip) -> None:
    port = free_port()
    running = supervise(f"--source=file:{clip(30.0)}", f"--dashboard=127.0.0.1:{port}")
    wait_until(lambda: answers(port), "the page")
    with (
        socket.create_connection(("127.0.0.1", port)) as open_page,
        socket.create_connection(("127.0.0.1", port)) as lazy_page,
    ):
        for connection in (open_page, lazy_page):
            connection.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: b"hello" in open_page.recv(1 << 16), "the greeting")
        running.process.terminate()
        code, stderr, _ = running.ended()
    assert code == 0, stderr
    assert "Traceback" not in stderr


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
def test_a_mistake_is_one_line(flags: list[str], token: str | None, words: str) -> None:
    import os

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


def test_a_taken_port_is_told_before_anything_starts(supervise: Supervise, clip: Clip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr, _ = supervise(
            f"--source=file:{clip(3.0)}", f"--dashboard=127.0.0.1:{port}"
        ).ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert f"127.0.0.1:{port}" in line


def test_only_names_that_cannot_lie_are_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "localhost.example", "10.0.0.1", "box")))


def test_the_page_is_light_and_asks_nobody_else() -> None:
    files = [path for path in STATIC.iterdir() if path.suffix in (".html", ".css", ".js", ".svg")]
    assert sum(path.stat().st_size for path in files) < 300_000
    assert (STATIC / "uPlot-LICENSE").read_text().startswith("The MIT License")
    for path in files:
        text = path.read_text().replace("http://www.w3.org/", "")
        if not path.name.startswith("uPlot"):
            assert "http" not in text, path


def test_page_history_and_terminal_take_keys(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    house = House(tmp_path / "house")
    running = supervise(f"--source=file:{clip(40.0)}", *house.flags, env=house.env)
    keys = ["--secret", str(house.folder / "friend.key_secret")]
    keys += ["--server", str(house.folder / "box.key")]
    kept = tmp_path / "kept.sqlite"
    recorder = subprocess.Popen(
        [
            *(sys.executable, "-m", "speech_emotion", "history", "--results", house.endpoint),
            *("--file", str(kept), *keys),
        ],
        cwd=ROOT,
    )
    page = Dashboard(house.endpoint, *keys)
    stranger = Dashboard(house.endpoint)
    try:
        wait_until(lambda: bool(greeting(page.port)["latest"]), "a result on the page")
        command = [
            sys.executable,
            "-m",
            "speech_emotion",
            "watch",
            "--once",
            "--endpoint",
            house.endpoint,
        ]
        done = subprocess.run([*command, *keys], cwd=ROOT, capture_output=True, text=True)
        assert "main" in done.stdout, done.stderr
        half = subprocess.run([*command, *keys[:2]], cwd=ROOT, capture_output=True, text=True)
        assert (half.returncode, half.stderr.count("\n")) == (2, 1)
        assert greeting(stranger.port)["latest"] == []
    finally:
        page.end()
        stranger.end()
        recorder.terminate()
        assert recorder.wait(PATIENCE_S) == 0
    with Reader(kept) as reader:
        assert reader.bounds("main") is not None
    running.process.terminate()
    assert running.ended()[0] == 0
