"""At its end, a stage takes all that was published before, whatever pauses are between."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest

from speech_emotion.common.client.results import Event, Results
from speech_emotion.common.stage.draining import drain
from speech_emotion.common.wire import public
from tests.support.publisher import Publisher, health, publishing, result

PAUSE_S = 0.5


@pytest.fixture
def results() -> Iterator[tuple[Publisher, Results]]:
    with publishing() as (publisher, endpoint), Results(endpoint) as results:
        publisher.wait_for(results)
        yield publisher, results


def test_what_comes_after_a_pause_is_taken(results: tuple[Publisher, Results]) -> None:
    publisher, subscription = results
    taken: list[Event | None] = []
    publisher.send(dataclasses.replace(health(), time=time.time()))  # of before the stop

    def publish() -> None:
        for seq in range(3):
            time.sleep(PAUSE_S)
            publisher.send(result(seq))
        publisher.send(dataclasses.replace(health(), time=time.time()))
        publisher.send(result(3))  # of after it

    thread = threading.Thread(target=publish)
    thread.start()
    drain(lambda: subscription.health, lambda s: taken.append(subscription.receive(s)), 60.0)
    thread.join()
    numbers = [e.message.seq for e in taken if e and isinstance(e.message, public.Result)]
    assert numbers == [0, 1, 2]


def test_it_ends_without_a_pipeline(results: tuple[Publisher, Results]) -> None:
    publisher, subscription = results
    publisher.send(result(0))
    taken: list[Event | None] = []
    drain(lambda: subscription.health, lambda s: taken.append(subscription.receive(s)), 0.5)
    assert None in taken
