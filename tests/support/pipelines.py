"""Real pipelines: real processes, real shared memory, real sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from speech_emotion.common.linux.process_identity import ProcessIdentity
from speech_emotion.common.wire import codec, public

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "examples" / "demo.flac"
BUNDLE = ROOT / "models" / "small"
"""The bundle of the tests: windows of 1 s that take 0.03 ms, not 3 s that take 10 ms."""
SUPERVISOR = (str(ROOT / "supervisor.py"),)
PATIENCE_S = 60.0
"""Far beyond what anything here takes; only a hang reaches it."""
PATIENCE_MS = round(1000 * PATIENCE_S)
LIVE_ONLY = ("time", "timing_ms", "run")
"""Keys that a live message may have different from an offline one."""


@dataclasses.dataclass
class Received:
    """What a subscriber got, in order."""

    messages: list[tuple[codec.Message, bool, float]] = dataclasses.field(default_factory=list)

    def fresh(self, kind: type[codec.Message], stream: str | None = None) -> list[Any]:
        return [
            message
            for message, replay, _ in self.messages
            if isinstance(message, kind)
            and not replay
            and (stream is None or getattr(message, "stream", None) == stream)
        ]

    def stream(self, name: str = "main") -> list[dict[str, Any]]:
        """Results and utterances of one stream as comparable maps."""
        return [
            comparable(message)
            for message, replay, _ in self.messages
            if isinstance(message, public.Result | public.Utterance)
            and not replay
            and message.stream == name
        ]


def comparable(message: public.Result | public.Utterance) -> dict[str, Any]:
    """A result or utterance without what only time decides."""
    table = public.to_json_map(message)
    return {"kind": message.topic, **{k: v for k, v in table.items() if k not in LIVE_ONLY}}


class Subscriber:
    """Collects everything an endpoint publishes until it is stopped."""

    def __init__(self, endpoint: str) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.received = Received()
        self._stop_at: float | None = None
        self._ended = False
        self._connections = 0
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
        )
        self._socket.connect(endpoint)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still receives."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            over = self._over()
            if self._socket.poll(0 if over else 50):
                topic, payload = self._socket.recv_multipart()
                message, replay = public.decode_public(topic, payload)
                self.received.messages.append((message, replay, time.monotonic()))
            elif over:
                break
        self._context.destroy(linger=0)

    def _over(self) -> bool:
        """Whether nothing more is awaited than what waits to be read."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self._connections += 1 if event == zmq.EVENT_CONNECTED else -1
        if self._stop_at is None:
            return False
        return time.monotonic() >= self._stop_at or (self._ended and self._connections <= 0)

    def finish(self, *, ended: bool = False) -> Received:
        """Take what is still on its way, and stop.

        Args:
            ended: the publisher has ended. Everything has arrived when its connection is closed,
                however late this process gets a processor.
        """
        self._ended = ended
        self._stop_at = time.monotonic() + (PATIENCE_S if ended else 0.3)
        self._thread.join()
        return self.received

    def wait_for(self, condition: Callable[[Received], bool]) -> None:
        wait_until(lambda: condition(self.received), "the subscriber to get what it waits for")


class Running:
    """A supervisor that was started with some flags, and a subscriber to it.

    It uses `BUNDLE`, unless a flag or `SEP_BUNDLE` in `env` names another bundle; an empty
    `SEP_BUNDLE` leaves the choice to the configuration.
    """

    def __init__(
        self,
        *flags: str,
        env: dict[str, str] | None = None,
        program: tuple[str, ...] = SUPERVISOR,
        stdin: int | None = None,
        pipesize: int = -1,
    ) -> None:
        named = {"SEP_BUNDLE": str(BUNDLE), **(env or {})}
        named = {key: value for key, value in named.items() if value}
        self.endpoint = fresh_endpoint()
        self.subscriber = Subscriber(self.endpoint)
        self.process = subprocess.Popen(
            [sys.executable, *program, "--results", self.endpoint, *flags],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pipesize=pipesize,
            text=True,
            env={**os.environ, **named},
        )

    @property
    def received(self) -> Received:
        return self.subscriber.received

    def stages(self) -> dict[str, psutil.Process]:
        """The stage processes that run now, by module."""
        table = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            # `python -m STAGE …` until it calls itself `sep STAGE`.
            words = " ".join(command).split()
            if len(words) > 1 and words[0] == "sep":
                table[words[1]] = child
            elif "-m" in words:
                table[words[words.index("-m") + 1].removeprefix("speech_emotion.")] = child
        return table

    def await_results(self, further: int) -> None:
        """Wait for so many further results; less where it ends before, as on a busy machine."""
        enough = more_results(len(self.received.fresh(public.Result)) + further - 1)
        self.subscriber.wait_for(lambda got: enough(got) or self.process.poll() is not None)

    def kill_stage(self, module: str) -> bool:
        """Kill a stage; False where it, or the whole pipeline, has just ended."""
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            self.stages()[module].kill()
            return True
        return False

    def ended(self) -> tuple[int, str, Received]:
        """Wait for the end: exit code, stderr, everything received."""
        _, stderr = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, stderr, self.subscriber.finish(ended=True)

    def stopped(self, further: int = 3) -> tuple[int, str, Received]:
        """Stop it in order after some further results, or wait for its end; as `ended`."""
        self.await_results(further)
        if self.process.poll() is None:
            self.process.terminate()
        return self.ended()

    def end(self) -> None:
        with self.process:  # closes its pipes and waits for it
            if self.process.poll() is None:
                self.process.kill()
        if self.subscriber.alive:
            self.subscriber.finish()
        if self.process.returncode < 0:  # killed, its socket file and its rings are left
            Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
            # The next pipeline would remove them: until then they would count as what the tests
            # of other workers leave.
            for ring in Path("/dev/shm").glob(f"sep.{self.process.pid}.*"):
                ring.unlink(missing_ok=True)


def feed(running: Running, sound: bytes) -> None:
    """Write sound to the standard input of a pipeline that was started with a pipe."""
    assert isinstance(running.process.stdin, io.TextIOWrapper)
    running.process.stdin.buffer.write(sound)
    running.process.stdin.buffer.flush()


def check_beginning(stream: list[dict[str, Any]], whole: list[dict[str, Any]]) -> None:
    """Fail unless a stream that was stopped equals the beginning of the whole one.

    The stop ends the last utterance.
    """
    for kind, sure in (("result", None), ("utterance", -1)):
        rows, expected = ([row for row in part if row["kind"] == kind] for part in (stream, whole))
        assert kind != "result" or rows
        assert rows[:sure] == expected[: len(rows)][:sure]


def fresh_endpoint() -> str:
    """A new ipc endpoint; its socket file is removed when the socket is closed."""
    return f"ipc://{os.environ['XDG_RUNTIME_DIR']}/test-{secrets.token_hex(6)}"


def more_results(than: int) -> Callable[[Received], bool]:
    """Whether a subscriber has more than so many results."""
    return lambda received: len(received.fresh(public.Result)) > than


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE_S) -> None:
    """Poll until a condition holds; fail where it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience:g} s for {what}")
        time.sleep(0.01)


def runs(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not, which stays where process 1 collects none."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def leftovers() -> set[str]:
    """Everything of ours that outlives processes: segments, socket folders, stage processes."""
    found = {path.name for path in Path("/dev/shm").glob("sep.*") if not foreign(path.name)}
    base = Path(os.environ["XDG_RUNTIME_DIR"]) / "sep"
    if base.is_dir():
        found |= {path.name for path in base.iterdir() if path.name != "alone"}
    found |= {path.name for path in base.parent.glob("test-*")}
    return found | {f"process {p}" for p in stage_processes()}


def nothing_left_but(before: set[str]) -> None:
    """Fail where something stays behind for good.

    Another worker's test may have killed its supervisor a moment ago; what that has left goes
    with the next start, or with the end of that test.
    """
    try:
        wait_until(lambda: leftovers() <= before, "nothing to be left")
    except pytest.fail.Exception:
        if left := leftovers() - before:
            pytest.fail(f"left behind: {', '.join(sorted(left))}")


def foreign(segment: str) -> bool:
    """Whether a segment belongs to a living process that is none of this test run."""
    owner = ProcessIdentity.parse(segment.removeprefix("sep.").rpartition(".")[0])
    return owner is None or (owner.alive() and owner.pid != os.getpid())


def stage_processes() -> set[int]:
    """Stages of any pipeline that this test run has started."""
    found = set()
    ours = f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ends meanwhile, or belongs to another user
            command = (folder / "cmdline").read_bytes()
            stage = command.startswith(b"sep ") or b"--supervised\0" in command
            if stage and ours in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return found


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line of a program's stdout; it must not have ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the program has ended"
    return line


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """`speech-emotion WORDS`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "speech_emotion", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )


def offline(path: Path, bundle: Path = BUNDLE, *flags: str) -> list[dict[str, Any]]:
    """The messages of a recording as comparable maps, computed by the code of `python -m infer`.

    With flags: by the command itself.
    """
    if flags:
        return offline_command(path, bundle, *flags)
    from speech_emotion.infer.offline.analyzer import Analyzer, analyse
    from speech_emotion.infer.offline.sound import open_sound

    loaded, extractors, model = _loaded(bundle)
    sound = open_sound(str(path), loaded.spec.sample_rate)
    analyzer = Analyzer(loaded, extractors(), model, sound.blocks.rate, gaps=sound.gaps)
    return [comparable(message) for block in analyse(sound, analyzer) for message in block]


@functools.cache
def _loaded(bundle: Path) -> tuple[Any, Any, Any]:
    """A bundle, its extractors and its model."""
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.features.extractor import load_extractors
    from speech_emotion.infer.model import Model

    loaded = load_bundle(bundle)
    return loaded, load_extractors(loaded), Model(loaded)


def offline_command(path: Path, bundle: Path = BUNDLE, *flags: str) -> list[dict[str, Any]]:
    """What `python -m infer FILE --json` prints, as comparable maps."""
    import json

    done = subprocess.run(
        [sys.executable, "-m", "infer", str(path), "--json", "--bundle", str(bundle), *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=True,
    )
    rows = []
    for line in done.stdout.splitlines():
        table = json.loads(line)
        kind = "utterance" if table.pop("utterance", False) else "result"
        rows.append({"kind": kind, **{k: v for k, v in table.items() if k not in LIVE_ONLY}})
    return rows


def kill(process: psutil.Process) -> None:
    """kill -9, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: not runs(process), f"the end of process {process.pid}")
