"""The HTTP interface of a running page: schema, event streams, history, examples of its page."""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import dataclasses
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_result, make_utterance
from tests.support.live_page import INFO, live
from tests.support.pages import API, Dashboard, get, greeting, latest, stamped
from tests.support.pipelines import PATIENCE_S, ROOT, wait_until
from tests.support.publisher import Publisher, health, publishing

ROWS = 1200

pytestmark = pytest.mark.xdist_group("http_api")  # its server is started once


@pytest.fixture(scope="module")
def publisher() -> Iterator[tuple[Publisher, str]]:
    with publishing() as one:
        yield one


@pytest.fixture(scope="module")
def begin() -> float:
    return time.time() - ROWS


@pytest.fixture(scope="module")
def page(
    publisher: tuple[Publisher, str], begin: float, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Dashboard]:
    """A page with a history of two streams."""
    path = tmp_path_factory.mktemp("history") / "h.sqlite"
    writer = HistoryWriter(path)
    rows = [make_result(seq, stream=("main", "hall")[seq % 2]) for seq in range(ROWS)]
    writer.write([(dataclasses.replace(row, time=begin + row.seq), 0.0) for row in rows])
    spoken = [dataclasses.replace(make_utterance(seq), time=begin + seq) for seq in range(20)]
    writer.write([(one, 0.0) for one in spoken])
    writer.write([(dataclasses.replace(health(), time=begin + 1.0), 0.0)])
    writer.close()
    one = Dashboard(publisher[1], f"--history={path}")
    publisher[0].wait_for()
    publisher[0].send(INFO)
    publisher[0].send(stamped(health()))
    publisher[0].send(live(0))
    wait_until(lambda: bool(latest(greeting(one.port))), "the result to arrive")
    yield one
    assert one.end() == 0


def ask(page: Dashboard, path: str) -> Any:
    status, _, body = get(page.port, f"{API}{path}")
    assert status == 200, body
    return json.loads(body)


# Schema ------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.parametrize("phase", ["fuzzing", pytest.param("coverage", marks=pytest.mark.slow)])
def test_requests_and_answers_are_as_the_schema_says(page: Dashboard, phase: str) -> None:
    """Hundreds of valid and invalid requests: none fails, none is answered against the schema."""
    address = f"http://127.0.0.1:{page.port}{API}"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
        *("--url", address, f"--phases={phase}", "--max-examples=8", "--mode=all"),
        *("--generation-deterministic", "--no-color", f"--request-timeout={PATIENCE_S}"),
        "--suppress-health-check=all",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks"},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"(\d\d) selected / \1 total", done.stdout)


def test_the_document_and_the_interface_have_the_same_operations(page: Dashboard) -> None:
    paths = ask(page, "/openapi.json")["paths"]
    for path, methods in paths.items():
        for method in ("GET", "POST", "PUT", "DELETE"):
            status, headers, body = get(page.port, f"{API}{path}?wait=false&x=1", method=method)
            assert (status == 405) == (method.lower() not in methods), (method, path)
            assert "error" in json.loads(body)
            assert status != 405 or method.lower() not in headers["allow"].lower()


# Event streams -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Followed:
    """One event stream and what it has sent."""

    page: Dashboard
    path: str
    after: str | None = None

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", self.page.port, timeout=PATIENCE_S
        )
        headers = {} if self.after is None else {"Last-Event-ID": self.after}
        self._connection.request("GET", f"{API}{self.path}", headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self.place = self.after or ""
        self.place_read()

    def place_read(self) -> None:
        """The block with which every stream begins."""
        retry, place, end = (self._response.readline() for _ in range(3))
        assert (retry, end) == (b"retry: 500\n", b"\n")
        self.place = place.decode().removeprefix("id: ").strip()

    def next(self) -> tuple[str, dict[str, Any]] | None:
        """Kind and data of the next event; None at the end."""
        kind = ""
        while line := self._response.readline().decode():
            name, _, value = line.strip().partition(": ")
            if name == "id":
                self.place = value
            elif name == "event":
                kind = value
            elif name == "data":
                return kind, json.loads(value)
        return None

    def take(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        """The next events."""
        return [event for event in (self.next() for _ in range(count)) if event is not None]

    def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """Every event until the stream ends."""
        found = list(iter(self.next, None))
        self.close()
        return found

    def close(self) -> None:
        self._connection.close()


def test_a_lost_connection_continues_without_a_hole(
    page: Dashboard, publisher: tuple[Publisher, str]
) -> None:
    run = "resumed"
    first = Followed(page, "/results?stream=main")
    for seq in range(5):
        publisher[0].send(live(seq, run=run))
        publisher[0].send(live(seq, run=run, stream="hall"))
    seen = first.take(3)
    first.close()
    for seq in range(5, 9):
        publisher[0].send(live(seq, run=run))
    wait_until(lambda: newest_of(page, "main") == (run, 8), "the results")
    second = Followed(page, "/results?stream=main&wait=false", after=first.place)
    seen += second.rest()
    assert [(kind, data["seq"]) for kind, data in seen] == [("result", seq) for seq in range(9)]
    assert {data["stream"] for _, data in seen} == {"main"}
    assert seen[0][1] == public.to_json_map(live(0, run=run)) | {"time": seen[0][1]["time"]}
    # The same place in a query, for programs that cannot set a header; now nothing is new.
    assert Followed(page, f"/results?wait=false&after={second.place}").rest() == []
    both = Followed(page, f"/results?wait=false&after={first.place}").rest()
    assert [data["seq"] for _, data in both if data["stream"] == "main"] == [*range(3, 9)]
    assert sorted(data["seq"] for _, data in both if data["stream"] == "hall")[-1] == 4


def newest_of(page: Dashboard, stream: str) -> tuple[str, int]:
    """Run and number of the newest result of a stream."""
    found = {one["name"]: one["latest"] for one in ask(page, "/streams")["streams"]}
    return found[stream]["run"], found[stream]["seq"]


def test_what_cannot_be_continued_is_declared(
    page: Dashboard, publisher: tuple[Publisher, str]
) -> None:
    place = Followed(page, "/utterances?wait=false")
    place.rest()
    restart(page, publisher[0])  # the new process does not know what the first one has sent
    resumed = Followed(page, "/utterances", after=place.place)
    kind, gap = resumed.take(1)[0]
    assert (kind, gap["missed"]) == ("gap", None)
    assert "anew" in gap["reason"]
    spoken = dataclasses.replace(make_utterance(7), time=time.time())
    publisher[0].send(spoken)
    assert resumed.take(1) == [("utterance", public.to_json_map(spoken))]
    resumed.close()
    state = Followed(page, "/events", after="nonsense")
    assert [kind for kind, _ in state.take(2)] == ["gap", "state"]
    state.close()


def restart(page: Dashboard, publisher: Publisher) -> None:
    """Restart the server; it has subscribed again and knows the stream when this returns."""
    page.end()
    page.start()
    seq = 0

    def known() -> bool:
        nonlocal seq
        seq += 1
        publisher.send(INFO)
        publisher.send(stamped(health()))
        publisher.send(live(seq, run="anew"))
        return bool(latest(greeting(page.port)))

    wait_until(known, "the server to subscribe")


def test_the_page_gets_the_present_and_then_what_changes(
    page: Dashboard, publisher: tuple[Publisher, str]
) -> None:
    publisher[0].send(live(0, run="present"))
    wait_until(lambda: newest_of(page, "main") == ("present", 0), "the result")
    stream = Followed(page, "/events")
    kind, state = stream.take(1)[0]
    assert kind == "state"
    assert state["service"]["history"] is True
    publisher[0].send(live(1, run="present"))
    found: dict[str, dict[str, Any]] = {}
    while not {"result", "status"} <= set(found):
        found.update(stream.take(1))
    assert found["result"]["seq"] == 1
    assert found["status"]["statuses"][0]["stream"] == ""
    with publisher[0].repeating_health():
        wait_until(lambda: ask(page, "/health")["state"] in ("fresh", "degraded", "stale"), "it")
    assert ask(page, "/health")["health"]["stages"][0]["name"] == "infer"
    stream.close()


# History -----------------------------------------------------------------------------------------


def pages(page: Dashboard, query: str) -> list[dict[str, Any]]:
    """Every row of the history, page by page."""
    rows, after = [], ""
    while after is not None:
        answer = ask(page, f"/history?{query}{after and f'&after={after}'}")
        rows += answer["rows"]
        after = answer["next"]
    return rows


def test_the_history_is_the_same_in_each_format(page: Dashboard, begin: float) -> None:
    import pyarrow.parquet as pq

    for table, count in (("result", ROWS), ("utterance", 20), ("health", 1)):
        query = f"table={table}&from={begin - 1}&to={begin + ROWS}"
        rows = pages(page, f"{query}&limit=500")
        assert len(rows) == count
        assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
        _, headers, body = get(page.port, f"{API}/history?{query}&format=csv")
        lines = [*csv.DictReader(io.StringIO(body.decode()))]
        assert [float(line["time"]) for line in lines] == [row["time"] for row in rows]
        assert [*lines[0]] == [*rows[0]]
        _, headers, body = get(page.port, f"{API}/history?{query}&format=parquet")
        assert headers["content-type"] == "application/vnd.apache.parquet"
        found = pq.read_table(io.BytesIO(body)).to_pylist(maps_as_pydicts="strict")
        for row in rows:
            if table == "health":
                row["message"] = json.dumps(row["message"])
        assert found == rows
    assert {row["stream"] for row in pages(page, f"{query[13:]}&stream=hall&limit=5000")} == {
        "hall"
    }
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin + 101.0))
    rows = pages(page, f"from={begin}&to={later}")
    assert len(rows) in (100, 101)


def test_a_client_that_leaves_ends_the_export(page: Dashboard, begin: float) -> None:
    import psutil

    process = psutil.Process(page.process.pid)
    path = f"{API}/history?format=parquet&from={begin - 1}"
    for _ in range(4):
        connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=PATIENCE_S)
        connection.request("GET", path)
        connection.close()
    # The first that is answered comes after those that have left.
    wait_until(lambda: get(page.port, path)[0] == 200, "a place for an export")
    wait_until(lambda: process.children() == [], "the exports to end")
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: get(page.port, path), range(6)))
    assert {status for status, _, _ in answers} <= {200, 503}
    assert any(status == 200 and body[-4:] == b"PAR1" for status, _, body in answers)
    assert all(headers["retry-after"] for status, headers, _ in answers if status == 503)


# Documents ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def chatter(publisher: Publisher) -> Iterator[None]:
    """Publish results and utterances until the end of the block."""
    ended = threading.Event()

    def publish() -> None:
        seq = 0
        while not ended.wait(0.05):
            publisher.send(live(seq, run="chatter"))
            spoken = make_utterance(seq)
            publisher.send(dataclasses.replace(spoken, run="chatter", time=time.time()))
            seq += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_commands_of_the_document_work(
    page: Dashboard, publisher: tuple[Publisher, str], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    text = (ROOT / "docs" / "API_HTTP.md").read_text()
    commands = re.findall(r"^curl [^#\n]*", text, re.MULTILINE)
    assert len(commands) >= 6
    with chatter(publisher[0]):
        for command in commands:
            here = command.replace("127.0.0.1:8765", f"127.0.0.1:{page.port}")
            done = subprocess.run(
                ["bash", "-c", here.replace("curl ", "curl -f ")],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
            assert done.returncode == 0, (command, done.stderr)
            assert "-o " in command or len(done.stdout) > 20, command
    assert (tmp_path / "talk.csv").read_text().startswith("time,time_iso,stream")
    assert (tmp_path / "day.parquet").read_bytes()[:4] == b"PAR1"


def test_the_example_follows_over_a_restart(
    page: Dashboard, publisher: tuple[Publisher, str]
) -> None:
    example = subprocess.Popen(
        [sys.executable, "examples/follow_http.py", page.url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert example.stdout is not None
    try:
        with chatter(publisher[0]):
            assert example.stdout.readline() == "main  sad  75%\n"
            page.end()
            page.start()
            while not (line := example.stdout.readline()).startswith("--"):
                assert line == "main  sad  75%\n"
            assert line == "-- events are missing (unknown number): the server was started anew\n"
            assert example.stdout.readline() == "main  sad  75%\n"
    finally:
        example.terminate()
        example.communicate(timeout=PATIENCE_S)
