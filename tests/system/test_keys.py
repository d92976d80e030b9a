"""Keys, authentication, exposure, and that a run writes neither sound nor features."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from speech_emotion.common.client.results import Results
from speech_emotion.common.security.curve import (
    CurveServerKeys,
    read_pair,
)
from speech_emotion.common.wire import public
from tests.support.key_files import KeyFolder
from tests.support.pipelines import (
    PATIENCE_S,
    ROOT,
    Running,
    offline,
    wait_until,
)
from tools.ports import free_port

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


def test_keygen_says_where_which_file_goes(tmp_path: Path) -> None:
    command = [sys.executable, "supervisor.py", "keygen", "wall.panel", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "wall.panel.key_secret") in done.stdout
    assert read_pair(tmp_path / "wall.panel.key_secret")
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    assert again.returncode == 2
    assert len(again.stderr.splitlines()) == 1
    command[3] = "../evil"
    evil = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
    assert evil.returncode == 2
    assert "'../evil'" in evil.stderr


def refused(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("command", [["supervisor.py"], ["-m", "infer"]])
def test_an_open_endpoint_is_refused_unless_confirmed(command: list[str]) -> None:
    line = refused(*command, "--results", "tcp://0.0.0.0:0")
    assert "tcp://0.0.0.0:0" in line
    assert "curve.unprotected" in line


def test_an_open_endpoint_that_is_confirmed_is_used(supervise: Supervise, clip: Clip) -> None:
    running = supervise(
        f"--source=file:{clip(3.0)}",
        "--speed=max",
        f"--results=tcp://0.0.0.0:{free_port()}",
        env={"SEP_CURVE__UNPROTECTED": "true"},
    )
    code, stderr, _ = running.ended()
    assert code == 0, stderr


def test_half_of_the_keys_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "box.toml"
    config.write_text("[curve]\nsecret = 'x'")
    assert "curve: allowed is missing" in refused("supervisor.py", "--config", str(config))
    config.write_text("[curve]\nsecret = 'x'\nallowed = 'y'")
    assert "x: is not a key file" in refused("supervisor.py", "--config", str(config))


@pytest.fixture
def curve(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "keys")


def counted(results: Results) -> int:
    return (results.health.counters if results.health else {}).get("connections_refused", 0)


def more_refused(results: Results, before: int, what: str) -> int:
    """The count, once it is higher than before."""
    wait_until(
        lambda: heard(results, 0.2) >= 0 and counted(results) > before, f"{what} to be counted"
    )
    return counted(results)


def heard(results: Results, seconds: float) -> int:
    """How many messages come within a time."""
    deadline, count = time.monotonic() + seconds, 0
    while (left := deadline - time.monotonic()) > 0:
        count += results.receive(left) is not None
    return count


def test_only_holders_of_an_allowed_key_hear_anything(
    supervise: Supervise, clip: Clip, curve: KeyFolder
) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=3)}", *curve.flags, env=curve.env)
    with Results(
        curve.endpoint, timeout=PATIENCE_S, client_keys=curve.client_keys("friend")
    ) as friend:
        first = next(iter(friend))
        before = counted(friend)
        wrong = {
            "an unknown key": curve.client_keys("stranger"),
            "no key": None,
            "a wrong idea of the server": curve.client_keys("friend", server="stranger"),
        }
        for what, client_keys in wrong.items():
            with Results(curve.endpoint, client_keys=client_keys) as other:
                assert heard(other, 1.5) == 0, what
                before = more_refused(friend, before, what)
                assert heard(other, 0.1) == 0, what
        # Nothing else has happened: not one result is missing.
        assert friend.lost.total() == 0
        assert friend.health is not None
        assert all(stage.restarts == 0 for stage in friend.health.stages)
        assert first.stream == "main"
    running.process.terminate()
    code, stderr, _ = running.ended()
    assert code == 0, stderr


def test_a_key_added_while_running_counts_and_one_removed_does_not(
    supervise: Supervise, clip: Clip, curve: KeyFolder
) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=3)}", *curve.flags, env=curve.env)
    key = curve.allowed / "stranger.key"
    with Results(curve.endpoint, client_keys=curve.client_keys("friend")) as friend:
        assert friend.receive(PATIENCE_S)
        key.write_bytes((curve.folder / "stranger.key").read_bytes())
        with Results(curve.endpoint, client_keys=curve.client_keys("stranger")) as stranger:
            assert stranger.receive(PATIENCE_S)
        key.unlink()
        with Results(curve.endpoint, client_keys=curve.client_keys("stranger")) as stranger:
            assert heard(stranger, 1.5) == 0
    running.process.terminate()
    assert running.ended()[0] == 0


def test_random_bytes_at_an_endpoint_with_keys_do_nothing(
    supervise: Supervise, clip: Clip, curve: KeyFolder
) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=3)}", *curve.flags, env=curve.env)
    host, port = curve.endpoint.removeprefix("tcp://").split(":")
    with Results(
        curve.endpoint, timeout=PATIENCE_S, client_keys=curve.client_keys("friend")
    ) as friend:
        next(iter(friend))
        greeting = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00CURVE".ljust(55, b"\x00")
        for at in range(60):
            with socket.create_connection((host, int(port))) as noisy:
                noisy.sendall(greeting * (at % 2) + os.urandom(1 + 37 * at))
        results = [next(iter(friend)) for _ in range(3)]
        assert [r.seq - results[0].seq for r in results] == [0, 1, 2]
        assert friend.lost.total() == 0
    running.process.terminate()
    code, stderr, _ = running.ended()
    assert code == 0, stderr


def test_the_command_takes_keys(supervise: Supervise, clip: Clip, curve: KeyFolder) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=3)}", *curve.flags, env=curve.env)
    command = [
        sys.executable,
        "-m",
        "speech_emotion",
        "subscribe",
        "--endpoint",
        curve.endpoint,
        "--json",
    ]
    keys = ["--secret", str(curve.folder / "friend.key_secret")]
    keys += ["--server", str(curve.folder / "box.key")]
    with subprocess.Popen(
        [*command, *keys], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT
    ) as subscriber:
        assert subscriber.stdout is not None
        assert b'"topic"' in subscriber.stdout.readline()
        subscriber.terminate()
    watch = [sys.executable, "-m", "speech_emotion", "watch", "--once", "--endpoint"]
    watch += [curve.endpoint]

    def seen() -> bool:  # it looks for a short time, in which a busy machine may send nothing
        done = subprocess.run(
            [*watch, *keys], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
        )
        return "small@" in done.stdout or "main" in done.stdout

    wait_until(seen, "the stream to be shown")
    assert "belong together" in refused(*command[1:], *keys[:2])
    assert "no secret key" in refused(*command[1:], "--secret", keys[3], "--server", keys[3])
    running.process.terminate()
    assert running.ended()[0] == 0


def test_recording_works_with_keys(
    supervise: Supervise, clip: Clip, curve: KeyFolder, tmp_path: Path
) -> None:
    path = clip(6.0)
    tape = tmp_path / "tape"
    running = supervise(f"--source=file:{path}", f"--record={tape}", *curve.flags, env=curve.env)
    code, stderr, _ = running.ended()
    assert code == 0, stderr
    assert (tape / "main" / "messages.jsonl").read_text().count('"topic": "result"') == len(
        [row for row in offline(path) if row["kind"] == "result"]
    )
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tape.rglob("*") if p.is_file()}
    assert modes == {0o600}


def test_sockets_and_segments_are_for_the_owner_only(supervise: Supervise, clip: Clip) -> None:
    running = supervise(f"--source=file:{clip(50.0, repeat=3)}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "sep"
    (own,) = folder.glob(f"{running.process.pid}.*")
    for place in (folder, own):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    sockets = [*own.iterdir(), Path(running.endpoint.removeprefix("ipc://"))]
    assert {"hub", "features", "results"} <= {path.name for path in sockets}
    segments = list(Path("/dev/shm").glob(f"sep.{running.process.pid}.*"))
    assert segments
    for path in (*(path for path in sockets if path.is_socket()), *segments):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    for pid in (running.process.pid, *(stage.pid for stage in running.stages().values())):
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
    running.process.terminate()
    assert running.ended()[0] == 0


class Watched:
    """What a pipeline's processes write to disks, and which files they hold open for it."""

    def __init__(self, running: Running) -> None:
        self._pid = running.process.pid
        self._first: dict[int, int] = {}
        self.written: dict[str, int] = {}
        self.open: set[str] = set()

    def look(self) -> None:
        for process in self._processes():
            try:
                written = process.io_counters().write_bytes
                self._first.setdefault(process.pid, written)
                grown = written - self._first[process.pid]
                if grown:
                    self.written[" ".join(process.cmdline())] = grown
                self.open |= set(_writable(process))
            except (psutil.Error, OSError):
                continue

    def _processes(self) -> Iterator[psutil.Process]:
        supervisor = psutil.Process(self._pid)
        yield from (supervisor, *supervisor.children(recursive=True))


def _writable(process: psutil.Process) -> Iterator[str]:
    """Regular files on a disk that a process holds open for writing."""
    for file in process.open_files():
        if file.mode != "r" and not file.path.startswith("/dev/"):
            yield file.path


def changed_since(moment: float, *folders: Path) -> set[str]:
    changed = set()
    for path in (p for folder in folders for p in folder.rglob("*")):
        # Other workers compile modules meanwhile: into files with another name at first.
        if "__pycache__" not in path.parts:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_ctime >= moment:
                    changed.add(str(path))
    return changed


@pytest.mark.costly_cases
@pytest.mark.parametrize("record", [False, True])
def test_neither_sound_nor_features_reach_the_disk_unless_asked(
    supervise: Supervise, clip: Clip, tmp_path: Path, record: bool
) -> None:
    """Counted by the kernel, per process; and no file changes anywhere they may write."""
    source = clip(12.0)  # 23 windows
    places = {name: tmp_path / name for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    for place in places.values():
        place.mkdir()
    tape = tmp_path / "tape"
    flags = [f"--record={tape}"] if record else []
    began = time.time()
    env = {name: str(place) for name, place in places.items()}
    running = supervise(
        f"--source=file:{source}", *flags, env={**env, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    watched = Watched(running)
    # Until the sources end: then the sockets' files are removed from their folder.
    while len(running.received.fresh(public.Result)) < 22:
        watched.look()
        time.sleep(0.02)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert any(result.state == "speech" for result in received.fresh(public.Result))
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    changed = changed_since(began, tmp_path, runtime, *(ROOT / s for s in STAGES)) - {str(source)}
    if record:  # what is asked for is seen: so this test can fail
        assert any(str(tape) in path for path in changed)
        assert any(str(tape) in path for path in watched.open)
    else:
        assert not changed
        # The register of the mute: one byte in the runtime folder, which is on a disk here only.
        assert {Path(path).name for path in watched.open} <= {"mute"}
        assert sum(watched.written.values()) <= 4096


STAGES = ("capture", "features", "infer", "common", "models")


def test_no_pickle_anywhere() -> None:
    for package in (*STAGES[:-1], "."):
        for path in (ROOT / package).glob("*.py"):
            text = path.read_text()
            assert "import pickle" not in text, path
            assert "allow_pickle=True" not in text, path
            assert "shelve" not in text, path


def test_a_malformed_request_to_the_authenticator_is_refused(curve: KeyFolder) -> None:
    """The hub asks the authenticator itself; a domain or key it never saw is simply refused."""
    from speech_emotion.common.security.zap import ZapAuthenticator

    context: zmq.Context[Any] = zmq.Context()
    try:
        authenticator = ZapAuthenticator(context)
        guarded = context.socket(zmq.ROUTER)
        authenticator.guard(
            guarded,
            CurveServerKeys(curve.folder / "box.key_secret", curve.allowed),
            "results",
        )
        asking = context.socket(zmq.REQ)
        asking.connect("inproc://zeromq.zap.01")
        for domain, mechanism, key in (
            (b"results", b"PLAIN", b"x"),
            (b"results", b"CURVE", os.urandom(32)),
            (b"elsewhere", b"CURVE", os.urandom(32)),
            (b"\xff", b"CURVE", b""),
        ):
            asking.send_multipart([b"1.0", b"7", domain, b"::1", b"", mechanism, key])
            authenticator.turn()
            answer = asking.recv_multipart()
            assert answer[:3] == [b"1.0", b"7", b"400"]
        authenticator.close()
    finally:
        context.destroy(linger=0)
