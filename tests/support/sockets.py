"""ZeroMQ sockets of tests."""

from __future__ import annotations

from typing import Any

import zmq


class KeepingContext(zmq.Context[Any]):
    """Keeps its sockets until `destroy`: a socket that only a test's local variable names would
    be collected, unclosed, before the fixture destroys the context."""

    kept: list[zmq.Socket[Any]] = []  # noqa: RUF012 (pyzmq sets only attributes of the class)

    def __init__(self) -> None:
        super().__init__()
        self.kept = []

    def socket(self, *args: Any, **more: Any) -> zmq.Socket[Any]:
        self.kept.append(super().socket(*args, **more))
        return self.kept[-1]
