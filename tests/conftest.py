"""Real pipelines for the tests: real processes, real shared memory, real sockets."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import threadpoolctl  # type: ignore[import-untyped,unused-ignore]
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD
from tests.support.broker import MOSQUITTO, Broker
from tests.support.pipelines import DEMO, Running, fresh_endpoint, leftovers, nothing_left_but
from tests.support.publisher import Publisher, publishing

# A user's shell has neither: the first hides what happens when buffered output is written at exit.
for unusual in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(unusual, None)

# As the stages have it: how a product is split among threads decides its last bits.
os.environ.update(ONE_BLAS_THREAD)
threadpoolctl.threadpool_limits(1)

# A shell ignores Ctrl-C in what it starts in the background, and children inherit that.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow at everything; that is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("busy"), max_examples=20)
settings.load_profile("busy")


WAITING = {"supervise", "site", "by_hand", "pipe_into", "chromium", "microphone"}
"""Fixtures of tests that wait for sound in real time."""


WAITING_UNTIL = 0.8
"""Part of the list over which they are spread; the rest keeps all workers busy to the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every case of a test with `costly_cases` but the first as a `combination`."""
    if item.get_closest_marker("costly_cases") is None:
        return
    test = item.nodeid.partition("[")[0]
    if test in _seen:
        item.add_marker("combination")
    _seen.add(test)


_seen: set[str] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread the tests that wait among those that compute, which use the processors meanwhile."""
    if not hasattr(config, "workerinput"):  # one process: fixtures of a module are made once
        return
    waiting = [not WAITING.isdisjoint(getattr(item, "fixturenames", ())) for item in items]
    step = {kind: 1.0 / max(1, waiting.count(kind)) for kind in (False, True)}
    step[True] *= WAITING_UNTIL
    place = dict.fromkeys(step, 0.0)
    places = {}
    for item, kind in zip(items, waiting, strict=True):
        place[kind] += step[kind]
        places[item] = place[kind]
    items.sort(key=places.__getitem__)


@pytest.fixture(scope="session", autouse=True)
def _own_runtime_folder() -> Iterator[None]:
    """The tests' pipelines live apart from any that the user runs, and from what it has muted."""
    with (
        tempfile.TemporaryDirectory(prefix="sep-run-") as folder,
        tempfile.TemporaryDirectory(prefix="sep-state-") as state,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("XDG_RUNTIME_DIR", folder)
        environment.setenv("XDG_STATE_HOME", state)
        environment.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for all tests of a module."""
    from tools.browser import browser

    with browser() as one:
        yield one


@pytest.fixture
def publisher() -> Iterator[tuple[Publisher, str]]:
    """What publishes a test's own messages, and its endpoint."""
    with publishing() as one:
        yield one


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A mosquitto of the test, which may have stopped it."""
    if MOSQUITTO is None:
        pytest.skip("needs mosquitto: deploy/setup.sh dev installs it")
    one = Broker(tmp_path)
    yield one
    one.process.send_signal(signal.SIGCONT)
    one.stop()


@pytest.fixture
def supervise() -> Iterator[Callable[..., Running]]:
    """Start pipelines; whatever a test leaves running is ended, and nothing may stay behind."""
    before = leftovers()
    running: list[Running] = []

    def start(
        *flags: str,
        env: dict[str, str] | None = None,
        stdin: int | None = None,
        pipesize: int = -1,
    ) -> Running:
        running.append(Running(*flags, env=env, stdin=stdin, pipesize=pipesize))
        return running[-1]

    yield start
    forced = [one for one in running if one.process.poll() is None]
    for one in running:
        one.end()
    if not forced:
        nothing_left_but(before)


@pytest.fixture(scope="session")
def demo() -> tuple[NDArray[np.float32], int]:
    """The demo clip: samples and rate."""
    samples, rate = soundfile.read(DEMO, dtype="float32")
    return samples, rate


@pytest.fixture
def clip(tmp_path: Path, demo: tuple[NDArray[np.float32], int]) -> Callable[..., Path]:
    """Writes a part of the demo clip, as many times over as asked for."""

    def write(seconds: float, *, start: float = 2.0, repeat: int = 1, name: str = "clip") -> Path:
        samples, rate = demo
        part = samples[int(start * rate) : int((start + seconds) * rate)]
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.tile(part, repeat), rate)
        return path

    return write


@pytest.fixture
def endpoint() -> Iterator[str]:
    address = fresh_endpoint()
    yield address
    Path(address.removeprefix("ipc://")).unlink(missing_ok=True)
