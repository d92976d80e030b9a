"""Another bundle while it runs: exchanged between two windows, refused, rolled back."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile
import zmq

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.stage.control import CONTROL, ask
from speech_emotion.common.wire import control_messages, internal, public
from speech_emotion.common.wire.sockets import connect, send
from speech_emotion.supervision.control_socket import ControlSocket, Request, running
from tests.support.bundles import change, rehash
from tests.support.pipelines import (
    BUNDLE,
    PATIENCE_MS,
    Running,
    check_beginning,
    feed,
    runs,
    wait_until,
)
from tests.support.swaps import OTHER, exchanges, swap, with_exchanges

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


def copies(one: Running) -> set[str]:
    """Which copies of bundles a supervisor keeps."""
    return {path.name for path in running_folder(one).glob("bundle*")}


def running_folder(one: Running) -> Path:
    return running()[one.process.pid].parent


def results_of(running: Running) -> list[public.Result]:
    return running.received.fresh(public.Result)


@pytest.mark.costly_cases
@pytest.mark.timeout(300)
@pytest.mark.parametrize("speed", ["realtime", "max"])
def test_no_window_is_lost_and_each_is_its_bundles_own(
    supervise: Supervise, clip: Clip, speed: str
) -> None:
    path = clip(50.0, repeat=4 if speed == "realtime" else 40)
    pipeline = supervise(f"--source=file:{path}", f"--speed={speed}")
    pipeline.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 5)
    there = swap(OTHER)
    assert there.returncode == 0, there.stderr
    assert "other@" in there.stdout
    assert "has replaced small@" in there.stdout
    if speed == "realtime":
        back = swap(BUNDLE)
        assert back.returncode == 0, back.stderr
        assert copies(pipeline) == {"bundle.1", "bundle.2"}
    code, stderr, received = pipeline.stopped()
    assert code == 0, stderr
    began = exchanges(received.fresh(public.Result))
    wanted = ["small", "other", "small"] if speed == "realtime" else ["small", "other"]
    assert [name.partition("@")[0] for _, name in began] == wanted
    folders = {"small": BUNDLE, "other": OTHER}
    plan = [(at, folders[name.partition("@")[0]]) for at, name in began]
    check_beginning(received.stream(), with_exchanges(path, plan))
    infos = [info.bundle for info in received.fresh(public.Info)]
    assert infos == [name for _, name in began]
    last = received.fresh(public.Health)[-1]
    assert {stage.restarts for stage in last.stages} == {0}
    assert {stage.name for stage in last.stages} == {"capture", "features", "infer"}


@pytest.mark.costly_cases
@pytest.mark.parametrize("when", ["testing", "switching", "trial"])
def test_stages_killed_around_the_exchange_lose_nothing(
    supervise: Supervise, clip: Clip, when: str
) -> None:
    path = clip(50.0, repeat=3)
    pipeline = supervise(f"--source=file:{path}")
    pipeline.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 3)
    chance = random.Random(when)
    asked = threading.Thread(target=swap, args=(OTHER,))
    asked.start()
    until = {"testing": 0.6, "switching": 2.0, "trial": 3.5}[when]
    killed = 0
    deadline = time.monotonic() + until
    while not killed or time.monotonic() < deadline:
        time.sleep(chance.uniform(0.2, 0.5))
        victim = pipeline.stages().get(chance.choice(["features", "infer", "capture"]))
        if victim is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
                killed += 1
    asked.join()
    code, stderr, received = pipeline.stopped()
    assert code == 0, stderr
    assert killed
    began = exchanges(received.fresh(public.Result))
    folders = {"small": BUNDLE, "other": OTHER}
    plan = [(at, folders[name.partition("@")[0]]) for at, name in began]
    check_beginning(received.stream(), with_exchanges(path, plan))


def test_a_hangup_takes_the_configured_bundle_over(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    config = tmp_path / "box.toml"
    config.write_text(f"bundle = '{bundle}'")
    pipeline = supervise(
        f"--config={config}", f"--source=file:{clip(50.0, repeat=3)}", env={"SEP_BUNDLE": ""}
    )
    pipeline.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    # In place, as an update of the folder does it.
    change(bundle, lambda table: table["calibration"].update(temperature=2.0))
    pipeline.process.send_signal(signal.SIGHUP)
    new = load_bundle(bundle).id
    pipeline.subscriber.wait_for(lambda received: received.fresh(public.Result)[-1].bundle == new)
    pipeline.process.send_signal(signal.SIGHUP)  # nothing new: nothing happens
    read_until(pipeline, f"{new} is already in use")
    config.write_text("bundle = 'models/nowhere'")
    pipeline.process.send_signal(signal.SIGHUP)
    read_until(pipeline, "models/nowhere: no such bundle folder")
    pipeline.process.terminate()
    code, stderr, received = pipeline.ended()
    assert code == 0, stderr
    assert len(exchanges(received.fresh(public.Result))) == 2


def read_until(pipeline: Running, words: str) -> None:
    """Read the lines of a pipeline up to one with these words."""
    assert pipeline.process.stderr is not None
    while words not in (line := pipeline.process.stderr.readline()):
        assert line, f"it has ended without the line {words!r}"


def test_after_the_exchange_stages_are_restarted_with_the_new_one(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(OTHER, bundle)
    path = clip(50.0, repeat=3)
    pipeline = supervise(f"--source=file:{path}")
    pipeline.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    assert swap(bundle).returncode == 0
    shutil.rmtree(bundle)  # it has its own copy
    for stage in ("infer", "features"):
        pipeline.stages()[stage].kill()
    code, stderr, received = pipeline.stopped()
    assert code == 0, stderr
    began = exchanges(received.fresh(public.Result))
    assert len(began) == 2
    whole = with_exchanges(path, [(0, BUNDLE), (began[1][0], OTHER)])
    check_beginning(received.stream(), whole)


def test_the_same_bundle_is_at_work_already(supervise: Supervise, clip: Clip) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0, repeat=3)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    stages = {name: process.pid for name, process in pipeline.stages().items()}
    done = swap(BUNDLE)
    assert done.returncode == 0
    assert "already" in done.stdout
    assert {name: process.pid for name, process in pipeline.stages().items()} == stages
    pipeline.process.terminate()
    assert pipeline.ended()[0] == 0


def other_hop(folder: Path) -> None:
    change(folder, lambda table: table["features"].update(hop_s=0.25))


def other_rate(folder: Path) -> None:
    change(folder, lambda table: table["features"].update(sample_rate=8000))


def damaged(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(b"damaged")


def wrong_golden(folder: Path) -> None:
    """A valid bundle of which this machine computes other things than it must."""
    shutil.copy(OTHER / "model.tflite", folder)
    rehash(folder)


def cut(folder: Path) -> None:
    model = folder / "model.tflite"
    model.write_bytes(model.read_bytes()[:5000])
    rehash(folder)


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (other_hop, "restart it to use this bundle"),
        (other_rate, "restart it to use this bundle"),
        (damaged, "SHA-256"),
        (wrong_golden, "other outputs"),
        (cut, "damaged"),
    ],
)
def test_a_bundle_that_does_not_do_is_refused_and_nothing_has_happened(
    supervise: Supervise, clip: Clip, tmp_path: Path, break_it: Callable[[Path], None], words: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    break_it(bundle)
    path = clip(50.0, repeat=3)
    pipeline = supervise(f"--source=file:{path}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    stages = {name: process.pid for name, process in pipeline.stages().items()}
    done = swap(bundle)
    assert done.returncode == 2
    output = done.stdout + done.stderr
    assert words in output
    assert str(bundle) in output  # not our copy of it
    assert len(output.splitlines()) == 1
    wait_until(  # those that were tried are just ending
        lambda: {name: process.pid for name, process in pipeline.stages().items()} == stages,
        "the stages to be the same",
    )
    assert copies(pipeline) == {"bundle"}
    code, stderr, received = pipeline.stopped()
    assert code == 0, stderr
    check_beginning(received.stream(), with_exchanges(path, [(0, BUNDLE)]))


def test_a_bundle_that_dies_at_work_is_rolled_back(supervise: Supervise, clip: Clip) -> None:
    """It passes its test, takes over, and then hangs before it gives a result."""
    path = clip(20.0)
    samples, rate = soundfile.read(path, dtype="int16")
    begin, rest = samples[: round(5.2 * rate)], samples[round(5.2 * rate) :]
    pipeline = supervise(f"--source=stdin:{rate}", "--speed=max", stdin=subprocess.PIPE)
    feed(pipeline, begin.tobytes())
    # All windows of 1 s that begin every 0.5 s: until more sound comes there is no further result.
    pipeline.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) == 9)
    first = {name: process.pid for name, process in pipeline.stages().items()}
    asked: list[subprocess.CompletedProcess[str]] = []
    thread = threading.Thread(target=lambda: asked.append(swap(OTHER)))
    thread.start()
    for process in _fresh(pipeline, first).values():
        process.suspend()
    feed(pipeline, rest.tobytes())
    thread.join()
    (done,) = asked
    assert done.returncode == 1, done.stdout
    assert "rolled back" in done.stdout
    assert "small@" in done.stdout
    assert copies(pipeline) == {"bundle"}
    code, stderr, received = pipeline.ended()  # it closes the pipe
    assert code == 0, stderr
    began = exchanges(received.fresh(public.Result))
    assert [name.partition("@")[0] for _, name in began] == ["small"]
    assert received.stream() == with_exchanges(path, [(0, BUNDLE)])
    infos = [info.bundle.partition("@")[0] for info in received.fresh(public.Info)]
    assert infos == ["small", "other", "small"]


def _fresh(running: Running, first: dict[str, int]) -> dict[str, Any]:
    """The processes that stand by to take over, once they do."""

    def standing() -> dict[str, Any]:
        found = {}
        for child in psutil.Process(running.process.pid).children():
            try:
                words = " ".join(child.cmdline()).split()
            except psutil.Error:
                continue
            if words[:1] == ["sep"] and words[1] == "infer" and child.pid not in first.values():
                found[words[1]] = child
        return found

    wait_until(lambda: bool(standing()), "fresh processes")
    # They beat as standing by before they are let go; the old ones end at that moment.
    wait_until(lambda: _others_gone(first), "the exchange")
    return standing()


def _others_gone(first: dict[str, int]) -> bool:
    try:
        return not runs(psutil.Process(first["infer"]))
    except psutil.NoSuchProcess:
        return True


def test_a_stop_during_the_exchange_ends_in_order(supervise: Supervise, clip: Clip) -> None:
    for pause in (0.2, 1.4, 1.8):
        path = clip(50.0, repeat=3)
        pipeline = supervise(f"--source=file:{path}")
        pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
        asked = threading.Thread(target=swap, args=(OTHER,))
        asked.start()
        time.sleep(pause)
        pipeline.process.terminate()
        code, stderr, received = pipeline.ended()
        asked.join()
        assert code == 0, stderr
        results = received.fresh(public.Result)
        assert [result.seq for result in results] == list(range(len(results)))
        assert len(exchanges(results)) <= 2


def test_without_a_pipeline_there_is_nothing_to_swap() -> None:
    done = swap(BUNDLE, "--pid", "1")
    assert done.returncode == 2
    assert "no pipeline with process id 1" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "no such bundle folder" in swap(Path("models/nowhere")).stderr


def test_two_pipelines_are_told_apart(supervise: Supervise, clip: Clip) -> None:
    both = [supervise(f"--source=file:{clip(50.0, repeat=3)}") for _ in range(2)]
    for one in both:
        one.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    assert set(running()) == {one.process.pid for one in both}
    done = swap(OTHER)
    assert done.returncode == 2
    assert all(str(one.process.pid) in done.stderr for one in both)
    assert swap(OTHER, "--pid", str(both[1].process.pid)).returncode == 0
    both[1].subscriber.wait_for(lambda r: r.fresh(public.Result)[-1].bundle.startswith("other"))
    assert len(exchanges(results_of(both[0]))) == 1
    for one in both:
        one.process.terminate()
        assert one.ended()[0] == 0


def test_a_second_one_at_once_is_told_to_wait_and_noise_is_nothing(
    supervise: Supervise, clip: Clip
) -> None:
    pipeline = supervise(f"--source=file:{clip(50.0, repeat=3)}")
    pipeline.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    control = running()[pipeline.process.pid]
    context: zmq.Context[Any] = zmq.Context()
    noisy = context.socket(zmq.DEALER)
    noisy.connect(f"ipc://{control}")
    chance = random.Random(0)
    for _ in range(2000):
        noisy.send(chance.randbytes(chance.randrange(200)))
    noisy.send_multipart([b"a", b"b", b"c"])
    # One after the other, long before the first of them can be done.
    clients = [connect(context, f"ipc://{control}", CONTROL) for _ in range(2)]
    for client in clients:
        send(client, control_messages.Swap(str(OTHER)))
    assert all(client.poll(PATIENCE_MS) for client in clients)
    answers = [internal.decode(client.recv()) for client in clients]
    context.destroy(linger=0)
    swapped = [answer for answer in answers if isinstance(answer, control_messages.Swapped)]
    busy, done = sorted(swapped, key=lambda answer: "busy" not in answer.text)
    assert "busy" in busy.text
    assert (done.code, "has replaced" in done.text) == (0, True)
    pipeline.process.terminate()
    code, stderr, _ = pipeline.ended()
    assert code == 0, stderr


def test_control_answers_only_what_it_is_asked(tmp_path: Path) -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "c"
    folder.mkdir(exist_ok=True)
    control = ControlSocket(folder)
    answered: list[control_messages.Swapped] = []
    swap_request = control_messages.Swap(str(tmp_path))
    thread = threading.Thread(
        target=lambda: answered.append(
            ask(folder / CONTROL, swap_request, control_messages.Swapped)
        )
    )
    thread.start()
    requests: list[tuple[bytes, Request]] = []

    def asked() -> bool:
        requests.extend(control.requests())
        return bool(requests)

    wait_until(asked, "the request")
    ((identity, request),) = requests
    assert request == swap_request
    control.answer(b"gone", control_messages.Swapped(0, "lost"))
    control.answer(identity, control_messages.Swapped(1, "no"))
    thread.join()
    assert answered == [control_messages.Swapped(1, "no")]
    control.close()
    folder.rmdir()
