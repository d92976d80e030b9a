"""A question to the centre that is cut off midway is an error, not a fleet without results."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nats")

from nats.errors import ConnectionClosedError

from speech_emotion.common.nats_server import NatsServer
from speech_emotion.fleet import status


@pytest.mark.parametrize("cut", [True, False])
def test_a_question_that_is_cut_off_is_an_error(monkeypatch: pytest.MonkeyPatch, cut: bool) -> None:
    """nats-py ends the list of messages where the connection ends, and raises nothing."""

    async def close() -> None:
        client.is_closed = True

    async def open_client(*_: Any) -> Any:
        return client

    async def newest(*_: Any) -> list[Any]:
        client.is_closed = cut
        return []

    client = SimpleNamespace(is_closed=False, jetstream=lambda: None, close=close)
    monkeypatch.setattr(status, "open_client", open_client)
    monkeypatch.setattr(status, "newest", newest)
    question = status.ask(NatsServer("nats://127.0.0.1:1"))
    if cut:
        with pytest.raises(ConnectionClosedError):
            asyncio.run(question)
    else:
        assert asyncio.run(question) == []
