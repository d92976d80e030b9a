"""The service: what systemd is told, the unit, the install and uninstall scripts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from speech_emotion.common.errors import EXIT_USER
from speech_emotion.common.linux.systemd import SystemdNotifier
from speech_emotion.common.wire import public
from speech_emotion.supervision.pipeline import (
    DRAIN_S,
    END_S,
    HUB_TURN_S,
    KILLED_S,
    RESTART_S,
    Pipeline,
)
from tests.support.pipelines import PATIENCE_S, ROOT, Running, wait_until

Supervise = Callable[..., Running]
Clip = Callable[..., Path]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "sep.service"
SYSTEMD = shutil.which("systemd-analyze")


class Manager:
    """The service manager's end of the socket: every datagram and when it came."""

    def __init__(self, address: str) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(0.05)
        self._closing = False
        self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                continue
            self.heard.append((time.monotonic(), text))
        self._socket.close()

    def times(self, text: str) -> list[float]:
        return [moment for moment, heard in self.heard if heard == text]

    def statuses(self) -> list[str]:
        return [t.removeprefix("STATUS=") for _, t in self.heard if t.startswith("STATUS=")]

    def close(self) -> None:
        self._closing = True
        self._thread.join()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


def notifying(tmp_path: Path, seconds: float = 1.0) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(round(seconds * 1e6))}


# sd_notify ------------------------------------------------------------------------------


def test_without_a_service_manager_nothing_is_sent() -> None:
    environment = {"WATCHDOG_USEC": "1000000"}
    notifier = SystemdNotifier(environment)
    notifier.turn(0.0, ready=True, well=True, status="x")
    notifier.stopping()
    notifier.close()
    assert environment == {}


@pytest.mark.parametrize("abstract", [False, True])
def test_it_says_what_is_new_and_feeds_the_watchdog(tmp_path: Path, abstract: bool) -> None:
    address = f"@sep-{os.getpid()}" if abstract else str(tmp_path / "n")
    manager = Manager(address)
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000000"}
    notifier = SystemdNotifier(environment)
    assert environment == {}  # a child cannot speak for us
    notifier.turn(0.0, ready=False, well=True, status="starting")
    notifier.turn(0.5, ready=False, well=True, status="starting")
    notifier.turn(1.0, ready=True, well=True, status="fine")
    notifier.turn(2.0, ready=False, well=False, status="fine")
    notifier.turn(3.0, ready=True, well=True, status="x" * 500)
    notifier.stopping()
    notifier.close()
    wait_until(lambda: bool(manager.times("STOPPING=1")), "the last datagram")
    manager.close()
    assert [text for _, text in manager.heard] == [
        "STATUS=starting",
        "WATCHDOG=1",
        "READY=1",
        "STATUS=fine",
        "WATCHDOG=1",
        f"STATUS={'x' * 200}",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_a_watchdog_of_another_process_is_not_ours(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "n"))
    environment = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
    notifier = SystemdNotifier(environment)
    notifier.turn(0.0, ready=True, well=True, status="")
    notifier.stopping()
    notifier.close()
    wait_until(lambda: bool(manager.times("STOPPING=1")), "the last datagram")
    manager.close()
    assert not manager.times("WATCHDOG=1")


def test_a_service_manager_that_is_gone_does_no_harm(tmp_path: Path) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1"})
    notifier.turn(0.0, ready=True, well=True, status="x")
    notifier.stopping()
    notifier.close()


def test_a_pipeline_tells_when_it_is_ready_alive_and_ending(
    supervise: Supervise, clip: Clip, tmp_path: Path, manager: Manager
) -> None:
    running = supervise(f"--source=file:{clip(50.0)}", env=notifying(tmp_path))
    wait_until(lambda: bool(manager.times("READY=1")), "READY")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    for stage in running.stages().values():
        assert "NOTIFY_SOCKET" not in stage.environ()
    wait_until(lambda: len(manager.times("WATCHDOG=1")) >= 2, "the watchdog to be fed")
    running.stages()["infer"].kill()
    wait_until(lambda: any("infer" in s for s in manager.statuses()), "the status to say it")
    wait_until(lambda: manager.statuses()[-1].startswith("all 3"), "the status to be well")
    running.process.terminate()
    code, stderr, _ = running.ended()
    assert code == 0, stderr
    wait_until(lambda: bool(manager.times("STOPPING=1")), "STOPPING")
    assert len(manager.times("READY=1")) == 1
    assert manager.times("READY=1")[0] < manager.times("STOPPING=1")[0]


def test_the_watchdog_starves_where_the_supervisor_is_stopped(
    supervise: Supervise, clip: Clip, tmp_path: Path, manager: Manager
) -> None:
    running = supervise(f"--source=file:{clip(50.0)}", env=notifying(tmp_path, 0.4))
    wait_until(lambda: len(manager.times("WATCHDOG=1")) > 3, "the watchdog to be fed")
    running.process.send_signal(signal.SIGSTOP)
    wait_until(
        lambda: psutil.Process(running.process.pid).status() == psutil.STATUS_STOPPED, "the stop"
    )
    # Whatever it sent before the stop comes before this.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto(b"stopped", str(tmp_path / "notify"))
    wait_until(lambda: bool(manager.times("stopped")), "the datagrams before the stop")
    fed = len(manager.times("WATCHDOG=1"))
    time.sleep(1.5)
    assert len(manager.times("WATCHDOG=1")) == fed
    running.process.send_signal(signal.SIGCONT)
    running.process.terminate()
    assert running.ended()[0] == 0


def test_a_hub_that_does_not_turn_starves_the_watchdog() -> None:
    """A supervisor's loop that turns is not enough."""

    class Stuck:
        turned, failure = 0.0, None

    fed: list[bool] = []
    pipeline = object.__new__(Pipeline)
    pipeline._processes, pipeline._hub = [], Stuck()  # type: ignore[assignment]
    pipeline._notifier = type(
        "Notifier", (), {"turn": lambda _, __, *, well, **___: fed.append(well)}
    )()
    for now in (1.0, HUB_TURN_S + 0.1):
        pipeline._notify(now)
    assert fed == [True, False]


# The unit ---------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root folder with the service in it."""
    root = tmp_path / "root"
    install(root)
    return root


def install(root: Path, script: str = "install.sh", *flags: str) -> str:
    done = subprocess.run(
        [DEPLOY / script, *(flags or (["--no-packages"] if script == "install.sh" else []))],
        capture_output=True,
        text=True,
        env={**os.environ, "DESTDIR": str(root)},
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze")
def test_the_unit_is_valid(installed: Path) -> None:
    targets = installed / "usr/lib/systemd/system"
    targets.mkdir(parents=True)
    for target in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(target, targets)
    for program in ("opt/sep/.venv/bin/speech-emotion", "bin/kill"):
        path = installed / program
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", path)
    for unit in sorted(DEPLOY.glob("*.service")):
        name = unit.name.replace("@", "@one")
        done = subprocess.run(
            [str(SYSTEMD), "verify", "--man=no", f"--root={installed}", name],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        assert unit.name not in done.stderr, done.stderr


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda unit: unit.name)
def test_the_unit_exposes_little(unit: Path) -> None:
    done = subprocess.run(
        [str(SYSTEMD), "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if "nknown option" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip("needs systemd-analyze of systemd 250 or newer")
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def settings_of(unit: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def test_the_unit_fits_the_program() -> None:
    unit = settings_of(UNIT)
    assert unit["Type"] == "notify"
    assert float(unit["WatchdogSec"]) >= 2 * HUB_TURN_S
    assert float(unit["TimeoutStopSec"]) > DRAIN_S + RESTART_S + END_S + KILLED_S
    assert unit["RestartPreventExitStatus"] == str(EXIT_USER)
    assert unit["Restart"] == "always"


def test_the_shipped_configuration_is_valid() -> None:
    from speech_emotion.common.config.load import load_config

    config = load_config(DEPLOY / "sep.toml", {})
    assert config.capture.wait_for_device
    # What is commented out is valid as well.
    text = re.sub(r"^# (?=\w+ = |\[)", "", (DEPLOY / "sep.toml").read_text(), flags=re.MULTILINE)
    assert "[curve]" in text


# Install, update, uninstall -----------------------------------------------------------------


def files(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mode & 0o777 for p in root.rglob("*")}


def test_install_is_idempotent_and_keeps_the_configuration(installed: Path) -> None:
    before = files(installed)
    assert before["usr/local/bin/sep"] == 0o755
    assert before["etc/sep/keys"] == 0o700
    assert before["etc/systemd/system/sep.service"] == 0o644
    assert not [path for path in before if "__pycache__" in path]
    config = installed / "etc/sep/sep.toml"
    config.write_text("# mine\n")
    (installed / "opt/sep/common/stale.py").write_text("")
    install(installed)
    assert files(installed) == before
    assert config.read_text() == "# mine\n"


def test_what_was_installed_runs(installed: Path, clip: Clip) -> None:
    import sys

    done = subprocess.run(
        [
            *(sys.executable, str(installed / "opt/sep/supervisor.py")),
            *("--source", f"file:{clip(3.0)}", "--speed", "max"),
            *("--results", f"ipc://{os.environ['XDG_RUNTIME_DIR']}/test-installed"),
        ],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr


def test_uninstall_takes_all_but_the_configuration(installed: Path) -> None:
    keys = installed / "etc/sep/keys/box.key_secret"
    keys.write_text("secret")
    assert "--purge" in install(installed, "uninstall.sh")
    left = {path for path in files(installed) if (installed / path).is_file()}
    assert left == {"etc/sep/sep.toml", "etc/sep/keys/box.key_secret"}
    install(installed, "uninstall.sh")  # once more does no harm
    install(installed)
    assert keys.read_text() == "secret"
    install(installed, "uninstall.sh", "--purge")
    assert not [path for path in files(installed) if (installed / path).is_file()]


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_an_unknown_word_is_refused(tmp_path: Path, script: str) -> None:
    done = subprocess.run(
        [DEPLOY / script, "--force"],
        capture_output=True,
        text=True,
        env={**os.environ, "DESTDIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_scripts_are_posix_shell() -> None:
    for script in DEPLOY.glob("*.sh"):
        assert script.read_text().startswith("#!/bin/sh\n")
        subprocess.run(["sh", "-n", script], check=True)
