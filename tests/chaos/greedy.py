"""A greedy client, as a process: python -m tests.chaos.greedy ENDPOINT KIND SECONDS.

KIND is `storm` (subscribes and unsubscribes in a loop), `prefixes` (thousands of long
subscriptions), `messages` (sends what no publisher reads) or `sleep` (subscribes to everything and
never reads). It connects again when it is cut.
"""

from __future__ import annotations

import contextlib
import sys
import time

import zmq

PREFIXES = 3000
PREFIX_BYTES = 300
CONNECTION_S = 1.0


def main(endpoint: str, kind: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with zmq.Context() as context:
            one = context.socket(zmq.SUB if kind == "sleep" else zmq.XSUB)
            one.setsockopt(zmq.LINGER, 0)
            one.connect(endpoint)
            ends = time.monotonic() + (seconds if kind == "sleep" else CONNECTION_S)
            if kind == "sleep":
                one.setsockopt(zmq.RCVHWM, 1)
                one.setsockopt(zmq.SUBSCRIBE, b"")
                time.sleep(seconds)
            number = 0
            while time.monotonic() < ends:
                number += 1
                with contextlib.suppress(zmq.Again):
                    one.send(request(kind, number), zmq.DONTWAIT)
                    continue
                time.sleep(0.001)
            one.close()


def request(kind: str, number: int) -> bytes:
    """The next request of a kind."""
    if kind == "storm":
        return bytes([number % 2]) + (b"result/", b"health", b"", b"info/")[number // 2 % 4]
    if kind == "prefixes":
        return b"\x01" + number.to_bytes(8, "little") * (PREFIX_BYTES // 8)
    return b"\x02" + bytes(PREFIX_BYTES)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
