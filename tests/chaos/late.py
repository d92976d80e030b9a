"""Late in a run: recorder, history and page killed; everything killed; what others remove."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.recording.reader import (
    TIMELINE,
    RecordingFile,
    open_recording,
    segment_name,
)
from speech_emotion.common.errors import EXIT_FAULT
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.supervision.control_socket import running
from tests.chaos.kills import LIVED_S
from tests.chaos.scene import (
    RATE,
    Row,
    Scale,
    Scene,
    first_difference,
    folder,
    late_program,
    microphone,
    shifted,
    speech,
)
from tests.support.pipelines import BUNDLE, leftovers, offline, wait_until
from tests.support.swaps import messages_of
from tools.ports import free_port

LATE = 40 * 24 * 3600 * RATE
"""First sample of a run that has lasted for 40 days: beyond 2^32, and a multiple of the hop."""
HOPS = LATE // (RATE // 2)
SUBSCRIBERS = ("record", "history", "dashboard")
LOST_S = 1.0
"""What a kill of everything may take from the end of recording and history, in seconds."""


def late_victims(scale: Scale) -> list[Row]:
    """Recorder, history and page killed in turn, live, 40 days into a run."""
    rng, back = random.Random(5), {name: list[float]() for name in SUBSCRIBERS}
    port = free_port()
    with folder() as here, microphone() as mic:
        mic.play(speech(here, 60.0 + 3 * 8.0 * scale.kills))
        flags = [f"--record={here / 'tape'}", f"--history={here / 'history.sqlite'}"]
        flags += ["--source=mic", f"--dashboard=127.0.0.1:{port}"]
        with Scene(*flags, microphone=mic, program=late_program(LATE)) as scene:
            scene.await_results(4)
            page = PageReader(port)
            for _ in range(scale.kills):
                for name in SUBSCRIBERS:
                    time.sleep(rng.uniform(0.3, 1.3) * LIVED_S / len(SUBSCRIBERS))
                    back[name].append(kill_and_wait(scene, name))
            last = len(scene.results())
            scene.await_results(last + 4)
            newest = scene.results()[-1].seq
            wait_until(lambda: page.newest >= newest, "the page to show the newest result")
            received = scene.stop()
            page.stop()
        expected = offline(shift_recording(here / "tape" / "main", LATE))
        difference = first_difference(shifted(received.stream(), HOPS), expected)
        health = received.fresh(public.Health)[-1]
        published = [one.seq for one in received.fresh(public.Result)]
        missing = _missing(here, published)
    counted = tuple(health.counters.get(n, 0) for n in ("record_messages_lost", "history_lost"))
    whole = not health.counters.get("record_lost", 0)
    return [
        Row(
            f"kill -9 of {name}, {len(times)} times, live, 40 days into a run",
            "back within 4 s; every sample recorded, every window recorded or counted; the page "
            "goes on",
            f"longest {max(times):.2f} s; {'every sample' if whole else 'NOT EVERY SAMPLE'}, "
            f"{difference or 'same messages'}; missing in recording and history "
            f"{missing[0]} and {missing[1]} windows of {len(published)}, counted "
            f"{counted[0]} and {counted[1]}",
            not difference and whole and missing == counted and max(times) <= 4.0,
        )
        for name, times in back.items()
    ]


def kill_and_wait(scene: Scene, name: str) -> float:
    """Kill a stage; the seconds until `health` says that another process of it is ready."""
    process, since = scene.running.stages()[name], time.monotonic()
    process.kill()

    def again(health: public.Health) -> bool:
        row = next(stage for stage in health.stages if stage.name == name)
        return row.state == "ready" and row.pid not in (0, process.pid)

    return scene.await_health(again, f"{name} to be ready again", since)[0]


def samples_from(tape: Path, start: int) -> tuple[NDArray[np.float32], list[list[int]]]:
    """The recorded samples from an absolute index on, and the gaps of the recording."""
    recording = open_recording(tape, RATE)
    file, blocks = RecordingFile(recording), []
    file.seek(start)
    while len(block := file.read(1 << 16)):
        blocks.append(block[:, 0])
    file.close()
    return np.concatenate(blocks), recording.gaps


def shift_recording(tape: Path, start: int) -> Path:
    """A copy of a recording whose first sample is sample `start` of the original."""
    samples, gaps = samples_from(tape, start)
    out = tape.with_name("shifted")
    out.mkdir()
    soundfile.write(out / segment_name(0), samples, RATE, subtype="PCM_24")
    rows: list[dict[str, Any]] = [{"rate": RATE, "run": "shifted"}]
    rows += [{"gap": [max(0, a - start), b - start]} for a, b in gaps if b > start]
    (out / TIMELINE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


def _missing(here: Path, published: list[int]) -> tuple[int, int]:
    """Published windows without a result in the recording, and in the history."""
    lines = (here / "tape" / "main" / "messages.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    recorded = {row["seq"] for row in rows if row["topic"] == "result"}
    with HistoryReader(here / "history.sqlite") as reader:
        kept = {row[0] for row in reader.windows("main", 0.0, 1e11, 10**7)["rows"]}
    return len(set(published) - recorded), len(set(published) - kept)


class PageReader:
    """An open page: the newest window that it was sent. Connects again, as a browser does."""

    def __init__(self, port: int) -> None:
        self.newest = -1
        self.seqs: set[int] = set()
        self._port = port
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended = True
        self._thread.join(20.0)

    def _run(self) -> None:
        while not self._ended:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5.0)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/api/v1/events")
                response = connection.getresponse()
                while not self._ended and (line := response.readline()):
                    self._take(line)
            connection.close()
            time.sleep(0.2)

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"data: "):
            return
        table = json.loads(line[6:])
        found = [one["latest"] or {} for one in table["streams"]] if "service" in table else [table]
        for result in found:
            if "seq" in result and "smoothed" in result:
                self.newest = result["seq"]
                self.seqs.add(self.newest)


def kill_everything(_scale: Scale) -> list[Row]:
    """kill -9 of the supervisor and all stages at the same moment; then a new start."""
    with folder() as here:
        path = speech(here, 60.0)
        history, tape = here / "history.sqlite", here / "tape"
        flags = [f"--source=file:{path}", f"--record={tape}", f"--history={history}"]
        with Scene(*flags) as scene:
            scene.await_results(20)
            victims = [scene.running.process.pid, *(p.pid for p in scene.running.stages().values())]
            for pid in victims:
                os.kill(pid, 9)
            scene.running.process.wait()
        before = scene.running.received.stream()
        left = leftovers()
        heard = read_recording(str(tape / "main"), RATE).samples
        position = max(row["end"] for row in before)
        replayed = messages_of(heard, [(0, BUNDLE)])
        results = [row for row in before if row["kind"] == "result"]
        common = [row for row in replayed if row["kind"] == "result"][: len(results)]
        readable = position - len(heard) <= LOST_S * RATE and common == results[: len(common)]
        with sqlite3.connect(history) as db:
            intact = db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
        rows = _history_rows(history)
        intact &= rows == list(range(len(rows))) and len(results) - len(rows) <= 2 * LOST_S + 1
        short = speech(here, 4.0)
        flags[0] = f"--source=file:{short}"
        with Scene(*flags) as scene:
            equal = scene.end().stream() == offline(short)
        again = _history_rows(history)
        equal &= len(again) == len(rows) + len(offline_results(short))
        equal &= (tape / "main.2").is_dir()
        wait_until(lambda: not leftovers() & left, "the remains to be gone")
    return [
        Row(
            "kill -9 of the supervisor and of every stage at once",
            "recording readable and history intact but for the last second; the next start "
            "removes what was left and runs",
            f"{len(heard) / RATE:.1f} of {position / RATE:.1f} s of sound "
            f"{'with the same results' if readable else 'WITH OTHER RESULTS'}; {len(rows)} of "
            f"{len(results)} results in {'an intact' if intact else 'A DAMAGED'} history; "
            f"{len(left)} remains removed, results {'right' if equal else 'WRONG'}",
            readable and intact and equal and bool(left),
        )
    ]


def offline_results(path: Path) -> list[int]:
    """Windows of a file."""
    return [row["seq"] for row in offline(path) if row["kind"] == "result"]


def _history_rows(path: Path) -> list[int]:
    with HistoryReader(path) as reader:
        return [row[0] for row in reader.windows("main", 0.0, 1e11, 10**7)["rows"]]


def removed(_scale: Scale) -> list[Row]:
    """The ring, the runtime folder, or the history file is removed while it runs."""

    def ring(home: Path) -> None:
        (segment,) = Path("/dev/shm").glob(f"sep.{home.name}.*")
        segment.unlink()

    cases: dict[str, Callable[[Path], None]] = {
        "ring segment": ring,
        "runtime folder": lambda home: shutil.rmtree(home),
    }
    rows = []
    with folder() as here:
        path, short = speech(here, 60.0), speech(here, 3.0)
        for name, remove in cases.items():
            with Scene(f"--source=file:{path}") as scene:
                scene.await_results(3)
                home = running()[scene.running.process.pid].parent
                since = time.monotonic()
                remove(home)
                code, stderr, _ = scene.running.ended()
                took = time.monotonic() - since
            with Scene(f"--source=file:{short}", "--speed=max") as scene:
                equal = scene.end().stream() == offline(short)
            rows.append(
                Row(
                    f"{name} removed while running",
                    "exit 1 within 5 s, so that the service manager starts it again; that start "
                    "works",
                    f"exit {code} after {took:.1f} s; the next results are "
                    f"{'right' if equal else 'WRONG'}",
                    code == EXIT_FAULT and took <= 5.0 and equal and "Traceback" not in stderr,
                )
            )
        rows.append(_removed_history(here, speech(here, 20.0)))
    return rows


def _removed_history(here: Path, path: Path) -> Row:
    kept = here / "kept" / "history.sqlite"
    kept.parent.mkdir()
    with Scene(f"--source=file:{path}", f"--history={kept}") as scene:
        scene.await_results(10)
        for file in kept.parent.iterdir():
            file.unlink()
        last = len(scene.results())
        received = scene.end()
    seqs = [one.seq for one in received.fresh(public.Result)]
    rows = _history_rows(kept)
    late = rows[0] - last if rows else len(seqs)
    counted = received.fresh(public.Health)[-1].counters.get("history_lost", 0)
    return Row(
        "history file removed while running",
        "a new file within 0.5 s, complete from then on",
        f"the new file holds windows {rows[0] if rows else 'NONE'} to {seqs[-1]}, "
        f"{max(0, late)} after the removal are missing; {counted} counted as lost",
        bool(rows) and rows == list(range(rows[0], seqs[-1] + 1)) and late <= 2,
    )
