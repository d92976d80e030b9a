"""Boxes of a roll-out: the real fleet process, and a supervisor that only exchanges bundles."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.bundle.rolled_out import rolled_out_bundle
from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.nats_server import NatsServer, RolloutOptions
from speech_emotion.common.stage.control import CONTROL
from speech_emotion.common.wire.control_messages import Swap, Swapped
from speech_emotion.common.wire.states import DONE, REFUSED
from speech_emotion.features.extractor import load_extractors
from speech_emotion.fleet.rollout.box_state import BoxState, StateFile
from speech_emotion.fleet.rollout.centre import Centre
from speech_emotion.fleet.rollout.orders import Report
from speech_emotion.fleet.server import FAULTS
from speech_emotion.infer.model import Model
from speech_emotion.supervision.child import Child
from speech_emotion.supervision.control_socket import ControlSocket
from speech_emotion.supervision.swap_attempt import check_grid
from tests.support.bundles import rehash
from tests.support.fleet import Fleet
from tests.support.pipelines import BUNDLE, PATIENCE_S, fresh_endpoint, wait_until
from tests.support.publisher import Publisher, health, result

T = TypeVar("T")

TURN_S = 0.05
DIRECT = {"leaf": False, "rollout": True}
"""Keys of boxes without a server of their own."""


class SimulatedBox(Closing):
    """A box. Make it in the main thread: its process ends with the thread that started it.

    Args:
        fleet: whose centre it belongs to.
        changes: of its `RolloutOptions`.

    Attributes:
        bundle: in use.
        faulty: it computes other values of a new bundle than its golden vectors hold.
        asked: folders of the bundles that were asked for.
        on_request: called before each answer.
        latency_ms: of its results.
        lines: what its process wrote.
    """

    def __init__(self, fleet: Fleet, name: str, **changes: object) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="box-", dir=os.environ["XDG_RUNTIME_DIR"]))
        self.bundles = fleet.folder / f"{name}.bundles"
        self.bundle = load_bundle(BUNDLE)
        self.faulty = False
        self.asked: list[str] = []
        self.on_request: Callable[[], object] = lambda: None
        self.latency_ms = 50.0
        self.lines: list[str] = []
        self._control = ControlSocket(self.folder)
        self._publisher = Publisher(endpoint := fresh_endpoint())
        self._socket = Path(endpoint.removeprefix("ipc://"))
        key = tomllib.loads((fleet.boxes[name] / "nats.toml").read_text())["nats"]["rollout"]
        options = RolloutOptions(key, self.bundles, self.folder / CONTROL, BUNDLE, 0.1)
        self._job = fleet.job(
            name,
            results=endpoint,
            hub=f"ipc://{self.folder}/hub",
            rollout=dataclasses.replace(options, **changes),  # type: ignore[arg-type]
        )
        self._closing = threading.Event()
        self._exchanges = 1
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._child = self._started()

    def _started(self) -> Child:
        return Child("fleet", (), self._job, self.lines.append)

    @property
    def state(self) -> BoxState:
        """What is in its state file."""
        return StateFile(self.bundles).state

    def kill(self) -> None:
        """Kill its fleet process; the supervisor starts it again."""
        self._child.kill()
        wait_until(lambda: self._child.exit_code() is not None, "the fleet process to end")
        self._child = self._started()

    def restart(self) -> None:
        """Kill its supervisor and all that is its, and start it again."""
        self._child.kill()
        wait_until(lambda: self._child.exit_code() is not None, "the fleet process to end")
        self.bundle = self._found("")
        self._exchanges += 1
        self._child = self._started()

    def close(self) -> None:
        """End it."""
        self._child.kill()
        wait_until(lambda: self._child.exit_code() is not None, "the fleet process to end")
        self._closing.set()
        self._thread.join()
        self._control.close()
        self._publisher.close()
        self._socket.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    # The supervisor ---------------------------------------------------------------------------

    def _run(self) -> None:
        seq, due = 0, 0.0
        while not self._closing.wait(TURN_S):
            for client, request in self._control.requests():
                assert isinstance(request, Swap)
                self.asked.append(request.bundle)
                self.on_request()
                self._control.answer(client, self._swapped(request.bundle))
            timing = {"total": self.latency_ms}
            message = dataclasses.replace(result(seq), time=time.time(), timing_ms=timing)
            self._publisher.send(dataclasses.replace(message, bundle=self.bundle.id))
            seq += 1
            if time.monotonic() > due:
                due = time.monotonic() + 0.5
                self._publisher.send(self._health())

    def _health(self) -> object:
        found = health()
        stage = dataclasses.replace(found.stages[0], pid=self._exchanges)
        stream = dataclasses.replace(found.streams[0], state_s=60.0)
        return dataclasses.replace(found, stages=[stage], streams=[stream], time=time.time())

    def _found(self, folder: str) -> Bundle:
        return load_bundle(Path(folder) if folder else rolled_out_bundle(self.bundles, BUNDLE))

    def _swapped(self, folder: str) -> Swapped:
        """Load and test a bundle as the processes that stand by do, and use it."""
        try:
            new = self._found(folder)
            if new.id == self.bundle.id:
                return Swapped(EXIT_OK, "already in use", DONE)
            check_grid(self.bundle, new)
            load_extractors(new)
            Model(self._misjudged(new) if self.faulty else new)
        except UserError as error:
            return Swapped(EXIT_USER, str(error), REFUSED, str(error))
        self._exchanges += 1
        self.bundle = new
        return Swapped(EXIT_OK, "exchanged", DONE)

    def _misjudged(self, bundle: Bundle) -> Bundle:
        """The bundle with another network: what a processor computes that is not like others."""
        copy = self.folder / "misjudged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle.path, copy)
        shutil.copy(self.bundle.model, copy)
        rehash(copy)
        return load_bundle(copy, bundle.path)


def reports(fleet: Fleet) -> dict[str, Report]:
    """Box → the newest report that has reached the centre."""

    async def ask() -> dict[str, Report]:
        async with Centre.opened(centre_server(fleet)) as centre:
            return await centre.reports()

    return {name.partition(".")[2]: one for name, one in patiently(ask).items()}


def patiently(ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The answer of a server, which a busy machine may give after the limits of the product."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return asyncio.run(ask())
        except FAULTS:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def centre_server(fleet: Fleet) -> NatsServer:
    """The centre, with the key of its programs."""
    return NatsServer(f"nats://127.0.0.1:{fleet.port}", fleet.centre.folder / "store.nk")
