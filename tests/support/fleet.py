"""A fleet on this machine: a centre, boxes with servers of their own, and what the store holds."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from speech_emotion.common.closing import Closing
from speech_emotion.common.connection_error import timed_out
from speech_emotion.common.nats_server import NatsServer
from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.common.stage.pending_queue import PendingQueue
from speech_emotion.common.wire import public
from speech_emotion.fleet.configurations import write_files
from speech_emotion.fleet.messages import HEALTH_S, Intake, Record
from speech_emotion.fleet.plan import Plan
from speech_emotion.fleet.sender import Sender
from tests.support.history import make_result
from tests.support.pipelines import PATIENCE_S, ROOT, command, wait_until
from tools.ports import free_port

NATS_SERVER = shutil.which(
    "nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
)


class Server:
    """A nats-server with a configuration of `fleet init`.

    Args:
        folder: where `fleet init` has put its files.
        port: at which its clients connect.
        prefix: words before its command, such as those of a namespace.
    """

    def __init__(self, folder: Path, port: int, prefix: Sequence[str] = ()) -> None:
        assert NATS_SERVER is not None
        self.folder, self.port, self._prefix = folder, port, prefix
        self._command = [*prefix, NATS_SERVER, "-c", str(folder / "nats-server.conf")]
        self._log = (folder / "log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        if not self._prefix:
            wait_until(self._listens, f"{self.folder} to listen; see its log")

    def pause(self) -> None:
        """Stop its process: the kernel takes connections for it, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(PATIENCE_S)
            self.process = None

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    @property
    def healthy(self) -> bool:
        """Whether it takes messages; after a full disk it does not until it is restarted."""
        text = (self.folder / "nats-server.conf").read_text()
        (address,) = re.findall(r'^http: "(.*)"$', text, re.MULTILINE)
        ask = f"import urllib.request as r; r.urlopen('http://{address}/healthz', timeout=5)"
        done = subprocess.run([*self._prefix, sys.executable, "-c", ask], capture_output=True)
        return done.returncode == 0

    def close(self) -> None:
        """End it for good."""
        self.kill()
        self._log.close()

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False


class Fleet:
    """The servers of a centre and its boxes, on loopback.

    Args:
        folder: for everything.
        boxes: names of the boxes; all are at the site `home`.
        centre: changes of the table `[centre]`.
        prefixes: words before the command of each box's server.
        disks: folder of each box's data.
        stream_mb: size of each box's stream.
        box: further keys of every box.
    """

    def __init__(
        self,
        folder: Path,
        boxes: Sequence[str],
        *,
        centre: dict[str, Any] | None = None,
        prefixes: Sequence[Sequence[str]] = (),
        disks: Sequence[Path] = (),
        stream_mb: int = 256,
        box: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.names = folder, list(boxes)
        files, data = folder / "files", folder / "data"
        self.port, ports = free_port(), [free_port() for _ in boxes]
        stores = [path / "nats" for path in disks] or [data / name for name in boxes]
        self.table: dict[str, Any] = {
            "centre": {
                "host": "127.0.0.1",
                "port": self.port,
                "leaf_port": free_port(),
                "folder": str(files / "centre"),
                "store": str(data / "centre"),
                **(centre or {}),
            },
            "box": [
                {
                    "site": "home",
                    "name": name,
                    "port": port,
                    "store": str(store),
                    "monitor_port": free_port(),
                    "stream_mb": stream_mb,
                    "folder": str(files / "boxes" / f"home.{name}"),
                    **(box or {}),
                }
                for name, port, store in zip(boxes, ports, stores, strict=True)
            ],
        }
        (folder / "fleet.toml").write_text(tomli_w.dumps(self.table))
        here, *there = write_files(Plan.model_validate(self.table), files)
        self.boxes = dict(zip(boxes, there, strict=True))
        self.centre = Server(here, self.port)
        with_leaf = (box or {}).get("leaf", True)
        self.leaves = {
            name: Server(path, port, prefix)
            for name, path, port, prefix in zip(
                boxes, there, ports, prefixes or [()] * len(ports), strict=True
            )
            if with_leaf
        }
        self.access = self._access()

    def _access(self) -> list[str]:
        centre = self.table["centre"]
        assert isinstance(centre, dict)
        scheme = "tls" if "certificate" in centre else "nats"
        words = ["--url", f"{scheme}://{centre['host']}:{self.port}"]
        words += ["--seed", str(self.centre.folder / "store.nk")]
        return [*words, *(["--ca", str(centre["ca"])] if "ca" in centre else [])]

    def make_streams(self) -> None:
        """Make the stream of the centre."""
        self.run("streams", str(self.centre.folder / "stream.json"))

    def run(self, verb: str, *words: str, code: int = 0) -> str:
        """The output of `speech-emotion fleet VERB` at the centre."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            done = command("fleet", verb, *words, *self.access)
            # A busy machine can be slower than the limits of the command.
            if timed_out() not in done.stderr or time.monotonic() > deadline:
                break
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    def store(self) -> str:
        """Store everything that has reached the centre."""
        return self.run("store", "--once", "--to", str(self.folder / "store"))

    def job(self, name: str, **changes: Any) -> FleetJob:
        """The job of a box's publisher."""
        port = self.leaves[name].port if name in self.leaves else self.port
        usual: dict[str, Any] = {
            "stage": "fleet",
            "hub": "ipc:///dev/null",
            "supervisor_pid": os.getpid(),
            "results": "ipc:///dev/null",
            "site": "home",
            "box": name,
            "server": NatsServer(f"nats://127.0.0.1:{port}", self.boxes[name] / "box.nk"),
            "outbox": self.folder / f"{name}.outbox",
            "outbox_bytes": 1 << 26,
            "stream_bytes": 1 << 20 if name in self.leaves else None,
            "stream_s": 86400.0,
        }
        return FleetJob(**{**usual, **changes})

    def box_config(self, name: str) -> str:
        """The table `[nats]` of a box, with an outbox of its own."""
        text = (self.boxes[name] / "nats.toml").read_text()
        return f"{text}outbox = '{self.folder / f'{name}.outbox'}'\n"

    def close(self) -> None:
        """End every server."""
        for leaf in self.leaves.values():
            leaf.close()
        self.centre.close()


@contextlib.contextmanager
def fleet_of(folder: Path, *boxes: str, **options: Any) -> Iterator[Fleet]:
    """A fleet without the centre's stream.

    The centre looks for the stream of a box that it has not found, or lost, after 10 to 40 s: a
    test makes it when the boxes have theirs.
    """
    fleet = Fleet(folder, boxes, **options)
    try:
        yield fleet
    finally:
        fleet.close()


class Box:
    """A box without a pipeline: messages as a hub would send them, and the real sender."""

    def __init__(self, fleet: Fleet, name: str, **changes: object) -> None:
        self.job = fleet.job(name, **changes)
        self._pending: PendingQueue[Record] = PendingQueue()
        self.sender = Sender(self.job, self._pending)
        self._intake = Intake(self.sender.states)
        self._now = 0.0
        self.sent: list[tuple[str, ...]] = []
        self.sender.start()

    def send(self, number: int, **changes: Any) -> None:
        """Send the next results."""
        for seq in range(len(self.sent), len(self.sent) + number):
            result = dataclasses.replace(make_result(seq, run=self.job.box), **changes)
            for record in self._intake.feed(result, 0.0):
                self._pending.put(record)
                self.sent.append((self.job.box, record.id or ""))

    def tell(self, health: public.Health) -> None:
        """Send a `health`, also one that has not changed."""
        self._now += HEALTH_S
        for record in self._intake.feed(health, self._now):
            self._pending.put(record)


class StoreProcess(Closing):
    """`fleet store`, as a process that can be killed.

    Args:
        path: its folder.
    """

    def __init__(self, fleet: Fleet, path: Path) -> None:
        self.path = path
        self._words = [sys.executable, "-m", "speech_emotion", "fleet", "store", *fleet.access]
        self._words += ["--every", "0.2", "--to", str(path)]
        self._log = (fleet.folder / "store.log").open("a")
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self._log
        )

    def kill(self) -> None:
        """Kill it, and start it again."""
        self._process.kill()
        self._process.wait()
        self._start()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()

    def keys(self) -> list[tuple[str, ...]]:
        """Results and utterances that are in its files now."""
        kinds = [kind for kind in ("result", "utterance") if any(self.path.glob(f"{kind}/*"))]
        return keys([row for kind in kinds for row in stored(self.path, kind)])


def stored(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Every row of a table, read by DuckDB, with the columns of its path.

    A running `fleet store` exchanges folders: a file that DuckDB has listed may be gone when it
    opens it, and a new folder is empty for a moment.
    """
    import duckdb

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _rows(folder, kind)
        except duckdb.IOException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    import duckdb

    with duckdb.connect() as db:
        cursor = db.execute(
            f"SELECT * EXCLUDE (time), epoch(time) AS time "
            f"FROM read_parquet('{folder}/{kind}/**/*.parquet', hive_partitioning = true)"
        )
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def keys(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """What makes a row that one: box and message id, in order."""
    return sorted((row["box"], row["id"]) for row in rows)


def history_keys(path: Path, box: str) -> list[tuple[str, ...]]:
    """The same of what the history of a box has: results and utterances."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT stream, run, seq, '' FROM result JOIN source ON source = source.id "
            "UNION ALL SELECT stream, run, seq, '/utterance' FROM utterance "
            "JOIN source ON source = source.id"
        ).fetchall()
    return sorted((box, f"{stream}/{run}/{seq}{kind}") for stream, run, seq, kind in rows)
