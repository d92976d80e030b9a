"""A writer that is killed between any two bytecodes leaves a valid ring."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from speech_emotion.common.ring import layout
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.writer import RingWriter
from tests.support.rings import (
    Script,
    ring,
    samples,
)

# A writer's death ----------------------------------------------------------------------


RING_CODE = os.path.dirname(layout.__file__)


class Killed(BaseException):
    """Ends a writer between two of its bytecodes, as SIGKILL would."""


def killed_after(bytecodes: int, call: Callable[..., object], *args: object) -> bool:
    """Run `call` for a number of bytecodes of the ring's code. False if it ended before."""
    left = bytecodes

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal left
        if os.path.dirname(frame.f_code.co_filename) != RING_CODE:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                raise Killed
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 needs one such frame at settrace
    sys.settrace(trace)
    try:
        call(*args)
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False


def test_samples_up_to_the_index_are_valid_after_a_kill_at_any_bytecode() -> None:
    killed, bytecodes, ends = True, 0, set()
    while killed:
        with ring(rate=16, capacity=40, start_index=35) as owner:
            with RingWriter.attach(owner.name) as writer:
                writer.write(samples(35, 65))
                killed = killed_after(bytecodes, writer.write, samples(65, 75))
            with RingReader.attach(owner.name) as reader:
                end = reader.index
                first = max(35, end - 32)
                out = np.zeros(end - first, np.float32)
                assert reader.read(first, out, end)
                np.testing.assert_array_equal(out, samples(first, end))
                ends.add(end)
        bytecodes += 1
    assert ends == {65, 69, 73, 75}


def test_a_gap_up_to_the_index_is_valid_after_a_kill_at_any_bytecode() -> None:
    killed, bytecodes = True, 0
    while killed:
        with ring(rate=16, capacity=200) as owner:
            with RingWriter.attach(owner.name) as writer:
                for _ in range(2):
                    writer.gap(2)
                    writer.write(samples(0, 5))
                killed = killed_after(bytecodes, writer.gap, 9)
            with RingWriter.attach(owner.name) as writer:
                end = writer.index
                gaps = [(0, 2), (7, 9), *([(14, end)] if end > 14 else [])]
                assert end in (14, 18, 22, 23)
                assert (writer.gaps(), writer.lost) == (gaps, 4 + end - 14)
                writer.write(samples(end, end + 20))  # past the gap that was begun
            with RingWriter.attach(owner.name) as writer:
                assert (writer.gaps(), writer.lost) == (gaps, 4 + end - 14)
                writer.gap(1)
                assert (writer.gaps(), writer.lost) == ([*gaps, (end + 20, end + 21)], end - 9)
        bytecodes += 1
    assert end == 23
    assert bytecodes > 100


def test_an_anchor_is_the_old_or_the_new_one_after_a_kill_at_any_bytecode() -> None:
    killed, bytecodes, seen = True, 0, set()
    while killed:
        with ring() as owner:
            with RingWriter.attach(owner.name) as writer:
                writer.set_anchor(1, 1.5, 1.25)
                killed = killed_after(bytecodes, writer.set_anchor, 2, 2.5, 2.25)
            with RingWriter.attach(owner.name) as writer:
                seen.add(writer.anchor)
        bytecodes += 1
    assert seen == {(1, 1.5, 1.25), (2, 2.5, 2.25)}


def test_a_new_writer_can_continue_after_a_kill_at_any_moment(script: Script) -> None:
    code = """
import numpy as np
writer = RingWriter.attach(sys.argv[1])
block = np.ones(5, np.float32)
while True:
    phase = writer.index % 8
    if phase < 3: writer.gap(3 - phase)
    else: writer.write(block[: 8 - phase])
    index = writer.index
    writer.set_anchor(index, index * 1.0, index * 2.0)
"""
    dice = random.Random(3)
    with ring(rate=40, capacity=8 * 60) as owner, RingReader.attach(owner.name) as reader:
        for _ in range(6):
            child = script(code, owner.name)
            target = reader.index + dice.randrange(1, 20_000)
            while reader.index < target:
                assert child.poll() is None
            child.kill()
            child.wait()
            with RingWriter.attach(owner.name) as writer:
                index = writer.index
                assert writer.lost == index // 8 * 3 + min(index % 8, 3)
                oldest = index - writer.capacity
                spans = [(a, min(a + 3, index)) for a in range(0, index, 8)]
                assert writer.gaps() == [(a, b) for a, b in spans if b > oldest]
                at, monotonic, unix = writer.anchor
                assert at <= index
                assert (monotonic, unix) == (at * 1.0, at * 2.0)
