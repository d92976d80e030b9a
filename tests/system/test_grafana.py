"""The dashboards: each metric, label and column that a panel asks for exists, and answers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")

import duckdb

from speech_emotion.common.wire import public
from speech_emotion.fleet.store.folder import StoreFolder
from speech_emotion.fleet.store.rows import row_of, table_of
from speech_emotion.supervision.metrics.server import MetricsServer
from tests.support.history import make_result, make_utterance
from tests.support.pipelines import PATIENCE_S, ROOT, wait_until
from tests.support.publisher import health
from tools.ports import free_port

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))}
ADDED = {"box", "instance", "job"}
"""Labels that Prometheus adds."""
PROMETHEUS = shutil.which("prometheus")
DAY = dt.datetime(2027, 1, 15, tzinfo=dt.UTC)  # of the results of tests.support.history
TIMING = {"features": 1.0, "infer": 2.0, "total": 9.0}
HALF_MINUTE = dt.timedelta(seconds=30)
SHOWN = {"timestamp[us]", "timestamp[us, tz=Asia/Tokyo]", "string", "int64", "double", "bool"}
"""Types that the data source turns into fields of Grafana."""


def sources() -> dict[str, str]:
    """Uid → type of each data source that is provided."""
    tables = [yaml.safe_load(path.read_text()) for path in GRAFANA.glob("*.yaml")]
    rows = [row for table in tables for row in table.get("datasources", [])]
    return {row["uid"]: row["type"] for row in rows}


def targets(name: str) -> list[tuple[str, str]]:
    """Title and query of each target of a dashboard's panels."""
    key = {"box": "expr", "centre": "rawSql"}[name]
    panels = DASHBOARDS[name]["panels"]
    return [(panel["title"], target[key]) for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_their_place_and_a_source_that_is_provided(name: str) -> None:
    table, known = DASHBOARDS[name], sources()
    cells: set[tuple[int, int]] = set()
    for panel in table["panels"]:
        used = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert [one for one in used if known.get(one["uid"]) != one["type"]] == []
        at = panel["gridPos"]
        own = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own
    ids = [panel["id"] for panel in table["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {row["name"] for row in table["templating"]["list"]}
    asked = re.findall(r"\$\{?([a-z]\w*)", json.dumps([query for _, query in targets(name)]))
    assert set(asked) <= variables


@pytest.fixture(scope="module")
def metrics() -> Iterator[str]:
    """The address of `/metrics` of a box whose `health` has every key."""
    full = health()
    (stream,) = full.streams
    quality = {"snr_db": 20.0, "bandwidth_hz": 7000.0, "drift_ppm": 1.0}
    stream = public.StreamHealth(
        *(stream.name, "a", "live", None, 3.0, "card", 16000, -40.0, 0.0, 0, 0, quality)
    )
    full = public.Health(1.0, "ok", full.stages, [stream], {"fleet_lost": 0, "history_lost": 1})
    server = MetricsServer("127.0.0.1", 0, lambda: full)
    yield f"127.0.0.1:{server.port}"
    server.close()


def test_each_metric_and_label_is_in_a_scrape(metrics: str) -> None:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    labels: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    counters = (ROOT / "docs" / "PROTOCOL.md").read_text()
    asked = [expr for _, expr in targets("box")]
    asked += [row["definition"] for row in DASHBOARDS["box"]["templating"]["list"]]
    for expr in asked:
        named = re.findall(r"\b(sep_\w+|up)(?:\{(.*?)\})?(?=[\s,)\[]|$)", expr)
        assert named, expr
        for name, matchers in named:
            assert name in labels, f"{expr}: {name}"
            given = set(re.findall(r'(\w+)=~?"', matchers))
            assert given <= labels[name] | ADDED, f"{expr}: {given}"
        for events in re.findall(r'event=~"(.*?)"', expr):
            spelled = re.sub(
                r"\((.*?)\)(\w+)",
                lambda m: "|".join(f"{one}{m[2]}" for one in m[1].split("|")),
                events,
            )
            assert [one for one in spelled.split("|") if f"`{one}`" not in counters] == []


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus: apt-get install prometheus")
def test_prometheus_answers_each_query(metrics: str, tmp_path: Path) -> None:
    assert PROMETHEUS is not None
    table = yaml.safe_load((ROOT / "examples" / "prometheus.yml").read_text())
    table["global"]["scrape_interval"] = "1s"
    (job,) = table["scrape_configs"]
    job["static_configs"][0]["targets"] = [metrics]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(table))
    port = free_port()

    def ask(expr: str) -> list[Any]:
        for name, value in {"$box": ".*", "$__rate_interval": "10s"}.items():
            expr = expr.replace(name, value)
        words = urllib.parse.urlencode({"query": expr})
        url = f"http://127.0.0.1:{port}/api/v1/query?{words}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                found: list[Any] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            if error.code != 503:  # while it starts
                pytest.fail(f"{expr}: {error.read().decode()}")
        except OSError:
            pass
        return []

    flags = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data"]
    process = subprocess.Popen(
        [PROMETHEUS, *flags, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: bool(ask("rate(sep_events_total[10s])")), "two scrapes")
        for title, expr in targets("box"):
            wait_until(lambda expr=expr: bool(ask(expr)), title)  # type: ignore[misc]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with every kind of message of two boxes."""
    folder = tmp_path_factory.mktemp("store")
    results = [dataclasses.replace(make_result(seq), timing_ms=TIMING) for seq in range(40)]
    bodies = [("main", "result", public.to_json_map(result)) for result in results]
    bodies += [("main", "utterance", public.to_json_map(make_utterance(seq))) for seq in range(9)]
    time = make_utterance(1).time
    bodies += [("BOX", "health", {**public.to_json_map(health()), "time": time})]
    event = {"event": "source", "time": time, "state": "lost", "reason": "unplugged"}
    bodies += [("main", "event", event)]
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for box in ("kitchen", "hall"):
        for number, (stream, kind, body) in enumerate(bodies):
            subject = f"sep.home.{box}.{stream}.{kind}"
            row = row_of(subject, f"{kind}{number}", json.dumps(body).encode(), DAY)
            rows.setdefault((kind, row.partition), []).append(row.values)
    with StoreFolder(folder) as writer:
        writer.write({place: table_of(kind, of)[0] for (kind, place), of in rows.items()})
    return folder


def test_each_query_of_the_table_has_an_answer(store: Path) -> None:
    span = f"time >= '{DAY:%Y-%m-%d}T00:00:00Z' AND time <= '{DAY:%Y-%m-%d}T23:59:59Z'"
    values = {
        "$__timeFilter(time)": span,
        "${__interval_ms:raw}": "10000",
        "${store:raw}": str(store),
        "${site:sqlstring}": "'home','lab'",
        "${box:sqlstring}": "'hall'",
    }
    queries = targets("centre")
    queries += [
        (row["name"], row["query"])
        for row in DASHBOARDS["centre"]["templating"]["list"]
        if row["type"] == "query"
    ]
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'Asia/Tokyo'")  # of the server: no matter
        for title, query in queries:
            for name, value in values.items():
                query = query.replace(name, value)
            assert "$" not in query, query
            answer = db.sql(query).to_arrow_table()
            assert answer.num_rows, title
            types = {str(kind) for kind in answer.schema.types}
            assert types <= SHOWN, f"{title}: {types}"
            if "bucket" in answer.column_names:  # UTC, as Grafana takes it
                first = answer["bucket"][0].as_py()
                assert dt.timedelta() <= first - DAY.replace(hour=8, tzinfo=None) < HALF_MINUTE
