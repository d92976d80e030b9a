"""Boxes with servers of their own and a centre: every result arrives once, whatever is killed."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("nats")
pytest.importorskip("duckdb")

import pandas

from speech_emotion.common.nats_server import NatsServer
from speech_emotion.common.wire import public
from speech_emotion.fleet.server import FAULTS, open_client
from tests.support.certificates import make_certificate
from tests.support.fleet import (
    NATS_SERVER,
    Box,
    StoreProcess,
    fleet_of,
    history_keys,
    keys,
    stored,
)
from tests.support.pipelines import PATIENCE_S, ROOT, Running, command, kill, wait_until

pytestmark = [
    pytest.mark.skipif(NATS_SERVER is None, reason="needs nats-server"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """nats-py leaves sockets of lost and refused connections to the collector: here, not later."""
    yield
    gc.collect()


@pytest.fixture
def boxes() -> Iterator[list[Box]]:
    made: list[Box] = []
    yield made
    for box in made:
        box.sender.stop(1.0)


STEPS = ("leaf", "stage", "streams", "store", "leaf of hall", "end")
MORE_STEPS = (*STEPS[:-1], "centre", "leaf", "stage", "store", "centre", "end")


@pytest.mark.parametrize(
    "steps", [STEPS[:4], pytest.param(MORE_STEPS, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_every_result_is_in_the_table_once_whatever_is_killed(
    supervise: Supervise, clip: Clip, tmp_path: Path, boxes: list[Box], steps: tuple[str, ...]
) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = {"certificate": str(certificate), "private_key": str(key), "ca": str(certificate)}
    with fleet_of(tmp_path, "kitchen", "hall", "attic", centre=tls) as fleet:
        history, path = tmp_path / "history.sqlite", tmp_path / "store"
        config = tmp_path / "box.toml"
        config.write_text(f"{fleet.box_config('kitchen')}[history]\nfile = '{history}'\n")
        boxes += [Box(fleet, "hall"), Box(fleet, "attic")]
        running = supervise(f"--config={config}", f"--source=file:{clip(9.0, repeat=20)}")
        running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 3)
        with StoreProcess(fleet, path) as store:
            for step in steps:
                for box in boxes:
                    box.send(40)
                time.sleep(0.6)
                match step:
                    case "leaf" | "leaf of hall":
                        fleet.leaves["kitchen" if step == "leaf" else "hall"].restart()
                    case "stage":
                        kill(running.stages()["fleet"])
                    case "streams":
                        fleet.make_streams()
                    case "store":
                        store.kill()
                    case "centre":
                        fleet.centre.restart()
            code, stderr, received = running.stopped()
            assert code == 0, stderr
            # A pipeline publishes for 1.5 s at its end; the rest waits for the next start.
            boxes.append(Box(fleet, "kitchen"))
            wanted = history_keys(history, "kitchen")
            assert len(wanted) >= len(received.fresh(public.Result)) > 5
            wanted = sorted([*wanted, *(row for box in boxes for row in box.sent)])
            wait_until(lambda: len(store.keys()) >= len(wanted), f"{len(wanted)} rows", 110.0)
            assert store.keys() == wanted
        assert fleet.run("store", "--once", "--to", str(path)).count("\n") == 1  # none is missing
        table = pandas.read_parquet(path / "result")
        assert not table.duplicated(["site", "box", "id"]).any()
        assert {"day", "site", "stream"} <= set(table.columns)
        events = [json.loads(row["message"])["event"] for row in stored(path, "event")]
        assert {"run", "source"} <= set(events)
        lines = fleet.run("status", code=1).splitlines()
        assert lines[:2] == [f"home {name}: no contact yet" for name in ("attic", "hall")]
        assert "home kitchen: " in lines[2]
        assert "other bundle: main has small@" in lines[2]
        counters = received.fresh(public.Health)[-1].counters
        losses = ("fleet_lost", "fleet_dropped", "fleet_unwritten", "fleet_malformed")
        assert {counters[name] for name in losses} == {0}
        assert counters["fleet_published"] > 0


def test_what_an_outbox_dropped_is_counted_on_both_sides(tmp_path: Path, boxes: list[Box]) -> None:
    with fleet_of(tmp_path, "kitchen") as fleet:
        leaf = fleet.leaves["kitchen"]
        leaf.kill()
        box = Box(fleet, "kitchen", outbox_bytes=20_000)
        boxes.append(box)
        box.send(100)
        wait_until(lambda: box.sender.dropped > 0, "the outbox to be full")
        leaf.start()
        wait_until(lambda: box.sender.published + box.sender.dropped == 100, "the rest")
        fleet.make_streams()
        dropped = box.sender.dropped
        wait_until(lambda: f"home.kitchen: {dropped} messages" in fleet.store(), "the store")
        assert keys(stored(tmp_path / "store", "result")) == sorted(box.sent[dropped:])


@pytest.mark.slow
def test_a_stream_that_was_lost_and_a_centre_that_was_made_anew(
    tmp_path: Path, boxes: list[Box]
) -> None:
    with fleet_of(tmp_path, "kitchen") as fleet:
        box = Box(fleet, "kitchen")
        boxes.append(box)

        def arrive(number: int) -> None:
            box.send(number)
            wait_until(lambda: box.sender.published == len(box.sent), "the server")
            fleet.make_streams()
            wait_until(lambda: rows() == sorted(box.sent), "the store")

        def rows() -> list[tuple[str, ...]]:
            fleet.store()
            store = tmp_path / "store"
            return keys(stored(store, "result")) if any(store.glob("result/*")) else []

        arrive(20)
        for server, name in ((fleet.leaves["kitchen"], "kitchen"), (fleet.centre, "centre")):
            server.kill()
            os.rename(tmp_path / "data" / name, tmp_path / "data" / f"lost-{name}")
            server.start()
            arrive(20)


def test_a_box_can_do_no_harm_on_the_centre(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "kitchen", "hall") as fleet:
        leaf = fleet.leaves["kitchen"]
        server = NatsServer(f"nats://127.0.0.1:{leaf.port}", leaf.folder / "box.nk")

        async def ask(subject: str, patience: float = 1.0) -> bytes:
            client = await open_client(server, "test")
            try:
                return (await client.request(subject, b"{}", patience)).data
            finally:
                await client.close()

        own = json.loads(asyncio.run(ask("$JS.API.INFO", PATIENCE_S)))
        assert own["type"].endswith("account_info_response")
        for subject in ("$JS.centre.API.STREAM.DELETE.SEP", "$JS.home=hall.API.INFO"):
            with pytest.raises(FAULTS):
                asyncio.run(ask(subject))
        # The link's key is none of a client's, and a stranger has none.
        centre = f"nats://127.0.0.1:{fleet.port}"
        for seed in (leaf.folder / "box.nk", None):
            server = NatsServer(centre, seed)
            with pytest.raises(FAULTS, match="Authorization"):
                asyncio.run(ask("$JS.API.INFO"))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("status", "--url", "nats://127.0.0.1:1"), "no server answers there"),
        (("status", "--url", "nats://example.org:4222"), "unencrypted"),
        (("status", "--seed", "/nowhere"), "cannot be read"),
        (("status", "--seed", str(ROOT / "LICENSE")), "holds no seed"),
        (("streams", str(ROOT / "pyproject.toml")), "is no stream.json"),
        (("store", "--to", "/proc/none", "--once"), "cannot be used as a store"),
        (("init", "/nowhere", "--to", "/tmp"), "no such file"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], text: str) -> None:
    done = command("fleet", *words)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert text in line


def test_a_pipeline_says_what_is_missing(supervise: Supervise, clip: Clip, tmp_path: Path) -> None:
    config = tmp_path / "box.toml"
    config.write_text("[nats]\nurl = 'nats://127.0.0.1:1'\nseed = '/nowhere/box.nk'\n")
    code, stderr, _ = supervise(f"--config={config}", f"--source=file:{clip(2.0)}").ended()
    assert code == 2
    (line,) = stderr.splitlines()
    assert "[nats]: /nowhere/box.nk cannot be read" in line
    # A server that is away ends nothing.
    outbox = tmp_path / "fleet.sqlite"
    config.write_text(f"[nats]\nurl = 'nats://127.0.0.1:1'\noutbox = '{outbox}'\n")
    running = supervise(f"--config={config}", f"--source=file:{clip(4.0)}", "--speed=max")
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert "messages wait in the outbox for the next start" in stderr
    assert received.fresh(public.Result)
