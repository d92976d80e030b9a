"""infer on another machine: network namespaces as machines, cut links, restarted boxes."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.security.curve import make_keys
from speech_emotion.common.wire import public
from tests.support.pipelines import (
    BUNDLE,
    PATIENCE_S,
    ROOT,
    Running,
    Subscriber,
    check_beginning,
    fresh_endpoint,
    leftovers,
    more_results,
    nothing_left_but,
    offline,
    runs,
    wait_until,
)
from tests.support.swaps import OTHER, exchanges, swap, with_exchanges

Clip = Callable[..., Path]

HUB, FEATURES = 5556, 5557


def _possible() -> bool:
    if os.getuid() != 0 or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    script = "ip link add one type veth peer name two && ip link add sw type bridge"
    done = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True)
    return done.returncode == 0


pytestmark = [
    pytest.mark.skipif(not _possible(), reason="needs root, ip and network namespaces"),
    pytest.mark.timeout(240),
]


class Machine:
    """A network namespace; it exists while its first process runs."""

    def __init__(self) -> None:
        self._first = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{self._first.pid}/ns/net") != ours, "a namespace")
        self.do("ip link set lo up")

    @property
    def pid(self) -> int:
        return self._first.pid

    @property
    def prefix(self) -> list[str]:
        """Prefix of a command that runs on this machine."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def do(self, script: str) -> None:
        subprocess.run([*self.prefix, "sh", "-ec", script], check=True)

    def end(self) -> None:
        self._first.kill()
        self._first.wait()


class Network:
    """A switch with machines `10.77.0.N`."""

    def __init__(self) -> None:
        self._switch = Machine()
        self._switch.do("ip link add sw type bridge && ip link set sw up")
        self.machines: list[Machine] = []

    def machine(self) -> tuple[Machine, str]:
        machine, number = Machine(), len(self.machines) + 1
        self.machines.append(machine)
        port, address = f"port{number}", f"10.77.0.{number}"
        self._switch.do(
            f"ip link add {port} type veth peer name eth0 netns {machine.pid} && "
            f"ip link set {port} master sw && ip link set {port} up"
        )
        machine.do(f"ip addr add {address}/24 dev eth0 && ip link set eth0 up")
        return machine, address

    def link(self, number: int, state: str) -> None:
        """Cut (`down`) or restore (`up`) a machine's link at the switch, unnoticed by it."""
        action = "master sw" if state == "up" else "nomaster"
        self._switch.do(f"ip link set port{number} {action}")

    def end(self) -> None:
        for machine in (*self.machines, self._switch):
            machine.end()


class Box(Running):
    """A supervisor on its own machine, with infer on another one."""

    def __init__(self, site: Site, name: str, *flags: str) -> None:
        self.name = name
        if name not in site.places:
            site.places[name] = site.network.machine()
            make_keys(site.folder / "boxes", name)
        machine, address = site.places[name]
        self.endpoint = fresh_endpoint()
        self.subscriber = Subscriber(self.endpoint)
        config = site.folder / f"{name}.toml"
        config.write_text(
            f"[infer_host]\nhub = 'tcp://{address}:{HUB}'\n"
            f"features = 'tcp://{address}:{FEATURES}'\n"
            f"secret = '{site.folder}/boxes/{name}.key_secret'\nallowed = '{site.allowed}'\n"
            # The sound of as long as a host takes to start on a busy machine.
            "[ring]\nseconds = 120.0\n"
        )
        command = [sys.executable, str(ROOT / "supervisor.py"), "--config", str(config)]
        self.process = subprocess.Popen(
            [*machine.prefix, *command, "--results", self.endpoint, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SEP_BUNDLE": str(BUNDLE)},
        )


class Site:
    """Boxes, an infer host, a network, and the keys of all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed = folder / "allowed"
        make_keys(folder, "host")
        make_keys(folder, "stranger")
        self.allowed.mkdir()
        shutil.copy(folder / "host.key", self.allowed)
        self.network = Network()
        self.places: dict[str, tuple[Machine, str]] = {}
        self.boxes: list[Box] = []
        self.hosts: list[subprocess.Popen[str]] = []
        self._host_machine: Machine | None = None

    def box(self, name: str, *flags: str) -> Box:
        self.boxes.append(Box(self, name, *flags))
        return self.boxes[-1]

    def host(
        self, *names: str, who: str = "host", bundles: tuple[Path, ...] = (BUNDLE,)
    ) -> subprocess.Popen[str]:
        """Start the infer host for boxes that were started before."""
        if self._host_machine is None:
            self._host_machine, _ = self.network.machine()
        lines = [
            f"secret = '{self.folder}/{who}.key_secret'",
            f"bundles = {[str(path) for path in bundles]}",
        ]
        for name in names:
            address = self.places[name][1]
            lines += ["[[box]]", f"name = '{name}'", f"hub = 'tcp://{address}:{HUB}'"]
            lines += [f"features = 'tcp://{address}:{FEATURES}'"]
            lines += [f"server = '{self.folder}/boxes/{name}.key'"]
        path = self.folder / "boxes.toml"
        path.write_text("\n".join(lines))
        self.hosts.append(
            subprocess.Popen(
                [*self._host_machine.prefix, sys.executable, "-m", "infer", "--boxes", str(path)],
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
            )
        )
        return self.hosts[-1]

    def end(self) -> None:
        for host in self.hosts:
            host.kill()
            host.wait()
        for box in self.boxes:
            box.end()
        self.network.end()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    before = leftovers()
    site = Site(tmp_path / "site")
    yield site
    forced = any(box.process.poll() is None for box in site.boxes)
    site.end()
    if not forced:
        nothing_left_but(before)


def has_host(box: Box) -> bool:
    return "ready" in infer_states(box)


def has_stage(box: Box, stage: str) -> bool:
    return stage in box.stages()


def infer_states(box: Box) -> list[str]:
    """The states of infer so far, the newest last."""
    healths = box.received.fresh(public.Health)
    return [row.state for health in healths for row in health.stages if row.name == "infer"]


def infer_state(box: Box) -> str:
    return (infer_states(box) or [""])[-1]


def results(box: Box) -> list[public.Result]:
    return box.received.fresh(public.Result)


def ended(box: Box) -> list[dict[str, Any]]:
    code, stderr, received = box.ended()
    assert code == 0, stderr
    return received.stream()


def stopped(box: Box) -> list[dict[str, Any]]:
    code, stderr, received = box.stopped()
    assert code == 0, stderr
    return received.stream()


def test_two_boxes_and_one_host_equal_offline(site: Site, clip: Clip) -> None:
    paths = {name: clip(12.0, start=at, name=name) for name, at in (("a", 2.0), ("b", 12.0))}
    boxes = {name: site.box(name, f"--source=file:{path}") for name, path in paths.items()}
    wait_until(lambda: all(infer_state(box) == "away" for box in boxes.values()), "the wait")
    assert not any(results(box) for box in boxes.values())
    site.host("a", "b")
    wait_until(
        lambda: all(set(box.stages()) == {"capture", "features"} for box in boxes.values()),
        "the other stages",
    )
    for name, box in boxes.items():
        box.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
        wait_until(functools.partial(has_host, box), "the host to be seen")
        assert ended(box) == offline(paths[name])
        last = box.received.fresh(public.Health)[-1]
        (row,) = [row for row in last.stages if row.name == "infer"]
        assert (row.pid, row.lag_ms) == (0, None)
        assert all(
            result.timing_ms is not None and 0 < result.timing_ms["total"] < 60_000
            for result in results(box)
        )


@pytest.mark.costly_cases
@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_a_cut_and_restored_link_loses_and_doubles_nothing(
    site: Site, clip: Clip, seconds: float
) -> None:
    path = clip(50.0, repeat=2)
    box = site.box("a", f"--source=file:{path}")
    site.host("a")
    box.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 4)
    for _ in range(2):
        site.network.link(1, "down")
        time.sleep(seconds)
        if seconds > 3.0:
            wait_until(lambda: infer_state(box) == "away", "the cut to be reported")
        before = len(results(box))
        site.network.link(1, "up")
        box.subscriber.wait_for(more_results(before + 2))
    check_beginning(stopped(box), offline(path))


def test_a_host_killed_and_started_again_loses_nothing(site: Site, clip: Clip) -> None:
    path = clip(50.0, repeat=2)
    box = site.box("a", f"--source=file:{path}")
    for _ in range(3):
        host = site.host("a")
        before = len(results(box))
        box.subscriber.wait_for(more_results(before + 1))
        host.kill()
        host.wait()
    site.host("a")
    check_beginning(stopped(box), offline(path))


def test_killed_stages_of_a_box_with_a_remote_infer_lose_nothing(site: Site, clip: Clip) -> None:
    path = clip(50.0, repeat=2)
    box = site.box("a", f"--source=file:{path}")
    site.host("a")
    box.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    for stage in ("features", "capture", "features"):
        wait_until(functools.partial(has_stage, box, stage), stage)
        box.stages()[stage].kill()
        before = len(results(box))
        box.subscriber.wait_for(more_results(before))
    check_beginning(stopped(box), offline(path))


def test_a_restarted_box_does_not_disturb_the_other(site: Site, clip: Clip) -> None:
    path = clip(50.0, repeat=2, name="long")
    steady = site.box("a", f"--source=file:{path}")
    leaving = site.box("b", f"--source=file:{clip(50.0, repeat=2, name='leaving')}")
    site.host("a", "b")
    for box in (steady, leaving):
        box.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    stages = list(leaving.stages().values())
    leaving.process.kill()
    leaving.ended()
    wait_until(lambda: not any(map(runs, stages)), "its ports to be free")
    Path(leaving.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
    # The host serves the other box while this one is away.
    before = len(results(steady))
    steady.subscriber.wait_for(more_results(before + 4))
    meanwhile = results(steady)[before:]
    assert all(r.timing_ms and r.timing_ms["total"] < 1000 * PATIENCE_S for r in meanwhile)
    short = clip(5.0, name="back")
    back = site.box("b", f"--source=file:{short}")
    assert ended(back) == offline(short)
    check_beginning(stopped(steady), offline(path))


def test_a_host_without_an_allowed_key_gets_nothing_and_is_counted(site: Site, clip: Clip) -> None:
    path = clip(50.0, repeat=2)
    box = site.box("a", f"--source=file:{path}")
    box.subscriber.wait_for(lambda received: bool(received.fresh(public.Health)))
    stranger = site.host("a", who="stranger")
    wait_until(lambda: refused(box) >= 2, "the stranger to be counted")
    assert infer_state(box) == "away"
    assert not results(box)
    stranger.kill()
    stranger.wait()
    site.host("a")
    check_beginning(stopped(box), offline(path))


def refused(box: Box) -> int:
    healths = box.received.fresh(public.Health)
    return healths[-1].counters.get("connections_refused", 0) if healths else 0


def test_a_bundle_swap_works_if_the_host_has_the_bundle(site: Site, clip: Clip) -> None:
    path = clip(50.0, repeat=2)
    box = site.box("a", f"--source=file:{path}")
    site.host("a", bundles=(BUNDLE, OTHER))
    box.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 3)
    done = swap(OTHER)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = stopped(box)
    began = exchanges(results(box))
    assert [name.partition("@")[0] for _, name in began] == ["small", "other"]
    check_beginning(rows, with_exchanges(path, [(0, BUNDLE), (began[1][0], OTHER)]))


def test_a_swap_to_a_bundle_that_the_host_lacks_is_rolled_back(site: Site, clip: Clip) -> None:
    path = clip(50.0, repeat=2)
    box = site.box("a", f"--source=file:{path}")
    site.host("a")
    box.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 3)
    done = swap(OTHER)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "rolled back" in done.stdout
    assert "no result" in done.stdout
    check_beginning(stopped(box), offline(path))
    assert box.received.fresh(public.Health)[-1].counters.get("infer_bundle_missing", 0) > 0


def test_a_host_stops_on_sigterm(site: Site, clip: Clip) -> None:
    box = site.box("a", f"--source=file:{clip(50.0, repeat=2)}")
    host = site.host("a")
    box.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    host.send_signal(signal.SIGTERM)
    assert host.wait(PATIENCE_S) == 0
    with contextlib.suppress(ProcessLookupError):
        box.process.terminate()
    assert box.ended()[0] == 0


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "secret"),
        ("secret = 'x'", "box"),
        ("secret = 'x'\n[[box]]\nname = 'a'\nhub = 'x'", "box.0.hub"),
        ("secrets = 'x'", "secret"),
        (
            "secret = 'nowhere'\n"
            + "[[box]]\nname = 'a'\nhub = 'tcp://h:1'\nfeatures = 'tcp://h:2'\nserver = 'k'\n" * 2,
            "two boxes are named 'a'",
        ),
        (
            "secret = 'nowhere'\n"
            "[[box]]\nname = 'a'\nhub = 'tcp://h:1'\nfeatures = 'tcp://h:2'\nserver = 'k'\n",
            "nowhere: is not a key file",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "boxes.toml"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "infer", "--boxes", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert words in line
