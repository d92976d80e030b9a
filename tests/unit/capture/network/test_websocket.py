"""Devices that connect to a listener, and when."""

from __future__ import annotations

import threading

import pytest

from speech_emotion.capture.sources.network.listening import parse
from speech_emotion.common.stage.jobs import ListenOptions
from tests.support.pipelines import PATIENCE_S, wait_until
from tools.ports import free_port

pytest.importorskip("websockets", reason="needs the extra `listen`")


def test_of_two_devices_that_connect_at_once_one_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
    from websockets.sync.server import ServerConnection

    from speech_emotion.capture.sources.network.websocket import TRY_AGAIN_LATER, Listener

    both, serve = threading.Barrier(2), Listener._serve

    def serve_both(listener: Listener, connection: ServerConnection) -> None:
        both.wait(PATIENCE_S)  # both were admitted before one of them is a device
        serve(listener, connection)

    monkeypatch.setattr(Listener, "_serve", serve_both)
    url = f"ws://127.0.0.1:{free_port()}/main"
    listener = Listener(parse(f"listen:{url}"), ["main"], ListenOptions())
    try:
        with (
            connect(url, open_timeout=PATIENCE_S) as first,
            connect(url, open_timeout=PATIENCE_S) as second,
        ):
            wait_until(lambda: bool(first.close_code or second.close_code), "one to be sent away")
            (gone,) = (one for one in (first, second) if one.close_code)
            (kept,) = {first, second} - {gone}
            with pytest.raises(ConnectionClosed, match=f"{TRY_AGAIN_LATER}.*another device"):
                gone.send(bytes(640))
            device = listener.claim("main")
            assert device is not None
            kept.send(bytes(640))
            wait_until(lambda: bool(device.take(1)), "the sound of the other one")
    finally:
        listener.close()
