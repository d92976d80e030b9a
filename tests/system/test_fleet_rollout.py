"""Bundles brought to boxes in waves: tested, taken, refused, rolled back, whatever is killed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from speech_emotion.commands import fleet as fleet_command
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.fleet.rollout.centre import Centre
from speech_emotion.fleet.rollout.orders import key_of, order_subject
from speech_emotion.fleet.server import FAULTS, inbox_of, open_client
from speech_emotion.fleet.status import ask
from tests.support.bundles import rehash
from tests.support.fleet import NATS_SERVER, Fleet, fleet_of
from tests.support.pipelines import BUNDLE, PATIENCE_S, ROOT, Running, wait_until
from tests.support.rollouts import DIRECT, SimulatedBox, centre_server, patiently, reports
from tests.support.swaps import OTHER

pytestmark = [
    pytest.mark.skipif(NATS_SERVER is None, reason="needs nats-server"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Supervise = Callable[..., Running]
Clip = Callable[..., Path]
OTHER_ID = load_bundle(OTHER).id
SMALL_ID = load_bundle(BUNDLE).id
QUICK = ("--watch", "1s", "--wait", "5m")
"""A box is waited for far longer than it takes; only a hang reaches the end of that."""


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """nats-py leaves sockets of lost and refused connections to the collector: here, not later."""
    yield
    gc.collect()


@contextlib.contextmanager
def boxes_of(fleet: Fleet, *names: str, **changes: Any) -> Iterator[list[SimulatedBox]]:
    """Boxes that have reported to the centre."""
    with contextlib.ExitStack() as stack:
        boxes = [stack.enter_context(SimulatedBox(fleet, name, **changes)) for name in names]
        if fleet.leaves:
            for name in names:
                wait_until(lambda name=name: has_stream(fleet, name), f"the stream of {name}")  # type: ignore[misc]
        fleet.make_streams()
        wait_until(lambda: set(reports(fleet)) >= set(names), "every box to report")
        wait_until(lambda: known(fleet) >= set(names), "the health of every box")
        yield boxes


def known(fleet: Fleet) -> set[str]:
    """The boxes of which the centre has a state."""
    return {one.box for one in patiently(lambda: ask(centre_server(fleet))) if one.health}


def has_stream(fleet: Fleet, name: str) -> bool:
    async def ask() -> bool:
        client = await open_client(fleet.job(name).server, "test")
        try:
            info = await client.jetstream().stream_info("SEP")
            return bool(info.state.messages)
        except FAULTS:
            return False
        finally:
            await client.close()

    return patiently(ask)


def order_of(fleet: Fleet, name: str) -> bytes | None:
    """The order of a box that is on the centre."""

    async def ask() -> bytes | None:
        async with Centre.opened(centre_server(fleet)) as centre:
            with contextlib.suppress(*FAULTS):
                return bytes((await centre._bucket.get(key_of("home", name))).value)
            return None

    return patiently(ask)


def test_the_second_wave_fails_and_the_third_is_never_begun(tmp_path: Path) -> None:
    names = ("attic", "cellar", "hall")
    with fleet_of(tmp_path, *names, box=DIRECT) as fleet, boxes_of(fleet, *names) as boxes:
        attic, cellar, hall = boxes
        cellar.faulty = True
        code, lines = roll(fleet, str(OTHER), "--waves", "1,2,100%", *QUICK)
        assert code == 1
        assert lines[0] == f"roll-out 1 to {OTHER_ID}: running; boxes: 3, waves: 3"
        assert lines[1] == "wave 1 of 3: home attic"
        assert lines.index("home attic: taken") < lines.index("wave 2 of 3: home cellar")
        (refused,) = [line for line in lines if line.startswith("home cellar: refused: ")]
        assert "gives other outputs on this machine than it must" in refused
        assert f"roll-out 1 to {OTHER_ID}: stopped: wave 2 of 3: {refused}" in lines
        assert "waves not begun: 1" in lines
        assert not any(line.startswith("wave 3") for line in lines)
        assert [one.bundle.id for one in boxes] == [OTHER_ID, SMALL_ID, SMALL_ID]
        assert hall.asked == []
        assert order_of(fleet, "hall") is None
        assert list(hall.bundles.iterdir()) == []
        code, status = roll(fleet, "status")
        assert (code, status[-1]) == (1, "wave 3: home hall: not begun")
        attic.restart()
        assert attic.bundle.id == OTHER_ID


@pytest.mark.slow
def test_a_bundle_is_taken_back_and_reaches_a_mended_box(tmp_path: Path) -> None:
    names = ("attic", "cellar", "hall", "kitchen")
    box = {"rollout": True}
    with fleet_of(tmp_path, *names, box=box) as fleet, boxes_of(fleet, *names) as boxes:
        attic, cellar, hall, kitchen = boxes
        cellar.faulty = True
        words = (str(OTHER), "--waves", "1,75%,100%", "--first", "home.kitchen", *QUICK)
        code, lines = roll(fleet, *words)
        assert code == 1
        assert lines[1] == "wave 1 of 3: home kitchen"
        assert "wave 2 of 3: home attic, home cellar" in lines
        assert hall.asked == []
        wait_until(lambda: attic.state.report.state == "taken", "it ends what it has begun")
        code, lines = roll(fleet, "back", *QUICK)
        assert code == 0
        assert {one.bundle.id for one in boxes} == {SMALL_ID}
        kitchen.restart()
        assert kitchen.bundle.id == SMALL_ID
        cellar.faulty = False
        assert roll(fleet, *words)[0] == 0
        table = json.loads(roll(fleet, "status", "--json")[1][0])
        assert (table["number"], table["state"]) == (3, "complete")
        assert {one["state"] for one in table["boxes"].values()} == {"taken"}
        assert {one.bundle.id for one in boxes} == {OTHER_ID}


STEPS: dict[str, Callable[[SimulatedBox], bool]] = {
    "asked": lambda box: bool(box.asked),
    "fetched": lambda box: any(path.is_dir() for path in box.bundles.iterdir()),
    "watching": lambda box: box.bundle.id == OTHER_ID,
    "taken": lambda box: box.state.in_use is not None,
}


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["fleet", "supervisor", "server"])
def test_a_box_that_is_killed_at_any_step_takes_the_bundle(tmp_path: Path, killed: str) -> None:
    with fleet_of(tmp_path, "hall", box=DIRECT) as fleet, boxes_of(fleet, "hall") as (hall,):
        kills = {"fleet": hall.kill, "supervisor": hall.restart, "server": fleet.centre.restart}
        for step, reached in STEPS.items():
            rolling = start(fleet, str(OTHER), *QUICK)
            wait_until(lambda reached=reached: reached(hall), step)  # type: ignore[misc]
            kills[killed]()
            output, _ = rolling.communicate(timeout=2 * PATIENCE_S)
            assert rolling.returncode == 0, (step, output, hall.lines)
            assert hall.bundle.id == OTHER_ID
            wait_until(lambda: left_in(hall) == {load_bundle(OTHER).digest}, "one bundle")
            hall.restart()
            assert hall.bundle.id == OTHER_ID
            assert roll(fleet, "back", *QUICK)[0] == 0
            assert hall.bundle.id == SMALL_ID
            wait_until(lambda: left_in(hall) == set(), "no bundle to be left")
            hall.asked.clear()


def left_in(box: SimulatedBox) -> set[str]:
    """What a box has beside its state; it removes a bundle after it has reported."""
    return {path.name for path in box.bundles.iterdir()} - {"state.json", "state.json.new"}


def roll(fleet: Fleet, *words: str) -> tuple[int, list[str]]:
    """`fleet rollout WORDS` in this process: exit code and lines."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = fleet_command.main(["rollout", *words, *fleet.access])
    return code, output.getvalue().splitlines()


def start(fleet: Fleet, *words: str) -> subprocess.Popen[str]:
    """`fleet rollout`, which runs on."""
    return subprocess.Popen(
        [sys.executable, "-m", "speech_emotion", "fleet", "rollout", *words, *fleet.access],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.slow
def test_a_bundle_that_is_too_slow_or_ends_the_pipeline_is_rolled_back(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "hall", box=DIRECT) as fleet, boxes_of(fleet, "hall") as (hall,):
        hall.latency_ms = 3000.0
        code, lines = roll(fleet, str(OTHER), *QUICK)
        assert code == 1
        (line,) = [one for one in lines if one.startswith("home hall: rolled back: ")]
        assert "too slow: half of the results take more than 3000 ms; the limit is 1000" in line
        assert hall.bundle.id == SMALL_ID
        # Each trial ends the box: after the third one it stays with the bundle before.
        ended = threading.Event()
        hall.on_request = ended.set
        rolling = start(fleet, str(OTHER), "--watch", "2m", "--wait", "5m")
        for _ in range(3):
            assert ended.wait(PATIENCE_S)
            wait_until(lambda: hall.bundle.id == OTHER_ID, "the trial")
            ended.clear()  # before the next process can ask
            hall.restart()
            assert hall.bundle.id == SMALL_ID
        output, _ = rolling.communicate(timeout=PATIENCE_S)
        assert rolling.returncode == 1
        assert "home hall: rolled back: the trial was interrupted 3 times" in output
        assert hall.bundle.id == SMALL_ID
        wait_until(lambda: left_in(hall) == set(), "no bundle to be left")


@pytest.mark.slow
def test_a_command_and_a_centre_that_are_killed_continue(tmp_path: Path) -> None:
    names = ("attic", "hall", "kitchen")
    with fleet_of(tmp_path, *names, box=DIRECT) as fleet, boxes_of(fleet, *names) as boxes:
        words = (str(OTHER), "--waves", "1,2,3", "--watch", "4s", "--wait", "5m")
        for _ in range(2):
            rolling = start(fleet, *words)
            assert rolling.stdout is not None
            assert "running" in rolling.stdout.readline()
            time.sleep(1.5)
            rolling.send_signal(signal.SIGKILL)
            rolling.communicate()
        rolling = start(fleet, *words)
        time.sleep(1.0)
        fleet.centre.restart()
        output, _ = rolling.communicate(timeout=120.0)
        assert rolling.returncode == 0, output
        assert output.startswith("roll-out 1 ")
        assert {one.bundle.id for one in boxes} == {OTHER_ID}
        # One that was stopped by hand goes no further; a box that has not begun does nothing.
        stopped = threading.Event()
        boxes[0].on_request = lambda: stopped.wait(PATIENCE_S)
        rolling = start(fleet, str(BUNDLE), "--waves", "1,3", *QUICK)
        wait_until(lambda: len(boxes[0].asked) > 1, "the first box")
        assert roll(fleet, "stop") == (0, [f"roll-out 2 to {SMALL_ID}: stopped: by hand"])
        output, _ = rolling.communicate(timeout=PATIENCE_S)
        assert rolling.returncode == 1
        assert "stopped: by hand" in output
        stopped.set()
        wait_until(lambda: reports(fleet)["attic"].state == "taken", "it ends what it has begun")
        assert [one.bundle.id for one in boxes] == [SMALL_ID, OTHER_ID, OTHER_ID]


@pytest.mark.slow
def test_a_box_reads_its_order_only_and_believes_no_stranger(tmp_path: Path) -> None:
    names = ("hall", "kitchen")
    with fleet_of(tmp_path, *names, box={"rollout": True}) as fleet:
        server = fleet.job("hall").server

        async def ask(subject: str, content: bytes = b"", patience: float = 1.0) -> bytes:
            client = await open_client(server, "test", inbox=inbox_of("home", "hall"))
            try:
                return (await client.request(subject, content, patience)).data
            finally:
                await client.close()

        with boxes_of(fleet, *names) as (hall, kitchen):
            assert roll(fleet, str(OTHER), *QUICK)[0] == 0
            get = "$JS.centre.API.DIRECT.GET.KV_SEP-ROLLOUT"
            own = asyncio.run(ask(f"{get}.{order_subject('home', 'hall')}", patience=PATIENCE_S))
            assert b"signature" in own
            refused = (
                f"{get}.{order_subject('home', 'kitchen')}",
                "$JS.centre.API.STREAM.PURGE.KV_SEP-ROLLOUT",
                "$JS.centre.API.STREAM.MSG.GET.KV_SEP-ROLLOUT",
                order_subject("home", "hall"),
                "$O.SEP-BUNDLES.C.x",
            )
            for subject in refused:
                with pytest.raises(FAULTS):
                    asyncio.run(ask(subject, own))
            # A server of the centre in wrong hands: the order of one box is none for another one.

            async def forge(number: int) -> None:
                async with Centre.opened(centre_server(fleet)) as centre:
                    table = json.loads(own)
                    table["order"] = table["order"].replace('"number": 1,', f'"number": {number},')
                    forged = json.dumps(table).encode()
                    await centre._bucket.put(key_of("home", "kitchen"), own)
                    await centre._bucket.put(key_of("home", "hall"), forged)

            asyncio.run(forge(7))
            wait_until(lambda: reports(fleet)["hall"].number == 7, "the box to refuse it")
            assert "not signed by the key" in reports(fleet)["hall"].reason
            wait_until(lambda: reports(fleet)["kitchen"].state == "refused", "the other one, too")
            assert "the order is for home hall" in reports(fleet)["kitchen"].reason
            assert {hall.state.report.number, kitchen.state.report.number} == {1}


@pytest.mark.slow
def test_a_pipeline_takes_a_bundle_and_keeps_it_over_a_restart(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    quick = (*QUICK, "--max-ms", "60000")  # the first results after an exchange are late
    bad = tmp_path / "bad"
    shutil.copytree(OTHER, bad)
    shutil.copy(BUNDLE / "model.tflite", bad)
    rehash(bad)
    with fleet_of(tmp_path, "hall", box=DIRECT) as fleet:
        fleet.make_streams()
        config, audit = tmp_path / "box.toml", tmp_path / "audit.jsonl"
        config.write_text(f"{fleet.box_config('hall')}[audit]\nfile = '{audit}'\n")
        flags = (f"--config={config}", f"--source=file:{clip(50.0, repeat=6)}")
        running = supervise(*flags)
        running.subscriber.wait_for(lambda r: bool(r.fresh(public.Result)))
        wait_until(lambda: "hall" in reports(fleet), "the box to report")
        code, lines = roll(fleet, str(bad), *quick)
        assert code == 1
        assert any("refused" in line and "than it must" in line for line in lines), lines
        code, lines = roll(fleet, str(OTHER), *quick)
        assert (code, "home hall: taken" in lines) == (0, True), lines
        running.subscriber.wait_for(lambda r: r.fresh(public.Result)[-1].bundle == OTHER_ID)
        running.process.kill()
        running.process.wait()
        running = supervise(*flags)
        running.subscriber.wait_for(lambda r: bool(r.fresh(public.Result)))
        assert {one.bundle for one in running.received.fresh(public.Result)} == {OTHER_ID}
        assert roll(fleet, "back", *quick)[0] == 0
        running.subscriber.wait_for(lambda r: r.fresh(public.Result)[-1].bundle == SMALL_ID)
        code, stderr, _ = running.stopped()
        assert code == 0, stderr
        swaps = [json.loads(line) for line in audit.read_text().splitlines()]
        by = [one.get("by") for one in swaps if one.get("event") == "swap"]
        assert by == [f"roll-out {number} of the centre" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("/nowhere",), "no such bundle folder"),
        ((str(OTHER),), "--key is missing"),
        ((str(OTHER), "--seed", str(ROOT / "LICENSE")), "rollout.nk: cannot be read"),
        ((str(OTHER), "--key", str(ROOT / "LICENSE")), "holds no seed"),
        (("status", "--url", "nats://127.0.0.1:1"), "no server answers there"),
        ((str(OTHER), "--wait", "10s"), "must be longer than --watch"),
        ((str(OTHER), "--watch", "soon"), "--watch 'soon' must be a length"),
        ((str(OTHER), "--max-ms", "0"), "--max-ms 0 must be"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], text: str) -> None:
    with pytest.raises(UserError) as caught:
        fleet_command.main(["rollout", *words])
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_centre_refuses(tmp_path: Path) -> None:
    with fleet_of(tmp_path, "hall", box=DIRECT) as fleet:
        fleet.make_streams()
        for words, text in (
            (("back",), "there was no roll-out yet"),
            (("stop",), "there was no roll-out yet"),
            ((str(OTHER),), "no box takes bundles"),
            ((str(OTHER), "--first", "home.x"), "there is no such box"),
        ):
            with pytest.raises(UserError, match=text):
                roll(fleet, *words)
        assert roll(fleet, "status") == (0, [])
