"""A fleet under faults: the central table equals the histories of the boxes.

Three pipelines in network namespaces, each with a server and a small disk of its own, and a centre.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.chaos.scene import Row, Scale, folder, speech
from tests.support.certificates import make_certificate
from tests.support.fleet import Fleet, StoreProcess, history_keys
from tests.support.network_namespace import NetworkNamespace
from tests.support.pipelines import BUNDLE, ROOT, wait_until

BOXES = ("kitchen", "hall", "attic")
STREAMS = 4
DISK, STREAM_MB = "96m", 48
FULL_S = 60.0
APART_S = 8.5
"""Shortest mean time between two kills; a long cut spreads them over its whole length."""
DOWN_S = (0.5, 8.0)
CATCH_UP_S = 300.0


@contextlib.contextmanager
def disk(path: Path) -> Iterator[Path]:
    """A disk of `DISK` bytes."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path, seconds: float) -> None:
    """Fill a disk to its last byte, and free it again."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0")
    time.sleep(seconds)
    filler.unlink()


def pipeline(fleet: Fleet, name: str, disk: Path, sound: Path) -> Path:
    """The configuration of a box; its streams play the sound."""
    config = fleet.folder / f"{name}.toml"
    text = (fleet.leaves[name].folder / "nats.toml").read_text()
    rows = [f"[[stream]]\nname = 's{n}'\nsource = 'file:{sound}'\n" for n in range(STREAMS)]
    config.write_text(
        f"results = 'ipc://{fleet.folder}/{name}'\nbundle = '{BUNDLE}'\n"
        f"{text}outbox = '{disk}/outbox.sqlite'\n"
        f"[history]\nfile = '{disk}/history.sqlite'\n" + "".join(rows)
    )
    return config


def fleet(scale: Scale) -> list[Row]:
    """Everything at once, then the comparison."""
    rng = random.Random(19)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(folder())
        wires = [stack.enter_context(NetworkNamespace(n)) for n in range(len(BOXES))]
        disks = [stack.enter_context(disk(here / f"disk-{name}")) for name in BOXES]
        host = wires[0].site.box
        certificate, key = make_certificate(here, host)
        tls = {"host": host, "certificate": str(certificate), "private_key": str(key)}
        prefixes = [wire.site.prefix for wire in wires]
        boxes = Fleet(
            here,
            BOXES,
            centre={**tls, "ca": str(certificate)},
            prefixes=prefixes,
            disks=disks,
            stream_mb=STREAM_MB,
        )
        stack.callback(boxes.close)
        apart = max(APART_S, scale.pause_s / scale.kills - sum(DOWN_S) / 2)
        sound = speech(here, scale.kills * (apart + sum(DOWN_S) / 2) * 1.3 + 120.0)
        logs = [stack.enter_context((here / f"{name}.log").open("w")) for name in BOXES]
        running = [
            subprocess.Popen(
                [
                    *(*prefix, sys.executable, "supervisor.py"),
                    *("--config", str(pipeline(boxes, name, place, sound))),
                ],
                cwd=ROOT,
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
            for name, place, prefix, log in zip(BOXES, disks, prefixes, logs, strict=True)
        ]
        for one in running:
            stack.callback(one.wait)
            stack.callback(one.terminate)
        store = stack.enter_context(StoreProcess(boxes, here / "store"))
        time.sleep(5.0)
        boxes.make_streams()
        # The cut link is the first box's, the full disk the second's.
        wires[0].pull()
        plug = threading.Timer(scale.pause_s, wires[0].plug)
        full = threading.Thread(target=fill, args=(disks[1], min(FULL_S, scale.pause_s)))
        plug.start()
        full.start()
        began = time.monotonic()
        kinds = {"leaf": 0, "centre": 0, "fleet stage": 0, "fleet store": 0}
        for number in range(scale.kills):
            time.sleep(apart * rng.uniform(0.3, 1.7))
            server = rng.choice([boxes.centre, *boxes.leaves.values()])
            server.kill()
            kinds["centre" if server is boxes.centre else "leaf"] += 1
            if number % 4 == 1:
                kill_stage(rng.choice(running).pid)
                kinds["fleet stage"] += 1
            if number % 4 == 3:
                store.kill()
                kinds["fleet store"] += 1
            time.sleep(rng.uniform(*DOWN_S))
            server.start()
        plug.join()
        full.join()
        for leaf in boxes.leaves.values():  # as the timer of docs/FLEET.md
            if not leaf.healthy:
                leaf.restart()
                kinds["leaf, its disk was full"] = kinds.get("leaf, its disk was full", 0) + 1
        lasted = time.monotonic() - began
        wait_until(
            lambda: max(waiting(place / "outbox.sqlite") for place in disks) < 2 * STREAMS,
            "the outboxes to be empty",
        )
        for one in running:
            one.send_signal(signal.SIGTERM)
        for one in running:
            one.wait(60.0)
        wanted = sorted(
            key
            for name, place in zip(BOXES, disks, strict=True)
            for key in history_keys(place / "history.sqlite", name)
        )
        stopped = time.monotonic()
        left = sum(waiting(place / "outbox.sqlite") for place in disks)
        found = store.keys()
        while len(found) < len(wanted) and time.monotonic() < stopped + CATCH_UP_S:
            time.sleep(2.0)
            found = store.keys()
        caught_up = time.monotonic() - stopped
    missing = len(set(wanted) - set(found))
    more = len(set(found) - set(wanted))
    twice = len(found) - len(set(found))
    return [
        Row(
            f"a fleet of {len(BOXES)} boxes: a link cut for {scale.pause_s:.0f} s, a disk full for "
            f"{min(FULL_S, scale.pause_s):.0f} s, kill -9 of "
            + ", ".join(f"{kind} {number} times" for kind, number in kinds.items()),
            "the central table equals the histories of the boxes, no row twice",
            f"{len(wanted)} rows in {lasted:.0f} s, {missing} missing, {twice} twice, "
            f"{more} that no history has, "
            f"{left} left in outboxes; complete {caught_up:.0f} s after the end",
            bool(wanted) and not missing and not twice and not more,
        )
    ]


def kill_stage(pipeline: int) -> None:
    """Kill the process `fleet` of a pipeline."""
    for child in psutil.Process(pipeline).children():
        if "fleet" in " ".join(child.cmdline()):
            child.kill()


def waiting(outbox: Path) -> int:
    """Messages in an outbox."""
    with contextlib.closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM message").fetchone()[0])
