"""Messages that no stage sends: random bytes, random maps, real messages with changed bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgpack

from speech_emotion.common.wire import codec, internal

RATE = 16000


def rubbish(rng: random.Random, run: str, count: int) -> Iterator[bytes]:
    """So many frames for an internal socket, a third of each kind."""
    real = [
        internal.encode(message)
        for message in (
            internal.Hello("infer", ""),
            internal.Accepted("main", run, 3, False),
            internal.Open("main", run, "mic", RATE, RATE, RATE // 2),
            internal.Credit("main", run, "0" * 16, 3, 19, []),
            internal.Tick("main", run, "sep.1.1.main", 1, 10 * RATE, False, 0, 0.0, None, []),
            internal.Heartbeat("infer", 1, "ready", 0, 0.0, None, 0, 0.0, 0.0, [], {}),
        )
    ]
    for n in range(count):
        if n % 3 == 0:
            yield rng.randbytes(rng.randrange(0, 300))
        elif n % 3 == 1:
            table = {rng.choice("tvabc"): rng.choice([1, "Hello", None, [1] * 9, b"x"])}
            yield codec.framed(msgpack.packb(table))
        else:
            frame = bytearray(rng.choice(real))
            for place in rng.sample(range(len(frame)), rng.randrange(1, 4)):
                frame[place] ^= rng.randrange(1, 256)
            yield bytes(frame)
