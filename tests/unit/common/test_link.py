"""A link reports each new connection, so that a restarted process gets what it has to know."""

from __future__ import annotations

from pathlib import Path

import zmq

from speech_emotion.common.wire.link import Link
from tests.support.pipelines import wait_until


def test_each_new_connection_is_reported_once(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/worker"
    with zmq.Context() as context:
        link = Link(context, endpoint, "worker")
        assert not link.renewed()
        for _ in range(2):  # the process, and the one that replaces it
            peer: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
            peer.bind(endpoint)
            wait_until(link.renewed, "the connection to be reported")
            assert not link.renewed()
            peer.close(linger=0)
        link.close(0)
