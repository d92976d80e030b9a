"""The ring compared with a simple model, and with real processes that race, die and restart."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity, boot_id
from speech_emotion.common.ring.layout import MAX_GAPS
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import RingOwner, create_ring, reclaim_segments
from speech_emotion.common.ring.writer import RingWriter, add_span

RUN = "0123456789abcdef"
SHM = Path("/dev/shm")
ROOT = Path(__file__).resolve().parents[3]
LABEL = f"test{os.getpid()}"
"""Part of every stream name here, so that the tests recognize their own leftovers."""
START_INDICES = [0, 1, 2**31 - 20, 2**32 - 20, 2**53]

_numbers = itertools.count()


def ring(*, rate: int = 8, capacity: int = 20, start_index: int = 0) -> RingOwner:
    return create_ring(
        f"{LABEL}-{next(_numbers)}",
        sample_rate=rate,
        capacity=capacity,
        run=RUN,
        start_index=start_index,
    )


def value(index: int | NDArray[np.int64]) -> NDArray[np.float32]:
    """Value of sample `index`: exact in float32, different in every lap."""
    return np.asarray(np.asarray(index) % 8_388_593 + 1, np.float32)


def samples(start: int, end: int) -> NDArray[np.float32]:
    return value(np.arange(start, end))


@pytest.fixture(autouse=True)
def _no_segment_is_left() -> Iterator[None]:
    yield
    assert not list(SHM.glob(f"*{LABEL}*"))


Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script() -> Iterator[Script]:
    """Start a Python process with the ring imported; `args` are its sys.argv[1:]."""
    children: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        prelude = (
            "import sys\n"
            "from speech_emotion.common.ring.reader import *\n"
            "from speech_emotion.common.ring.writer import *\n"
            "from speech_emotion.common.ring.segment import *\n"
            "from speech_emotion.common.ring.layout import *\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", prelude + code, *map(str, args)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    """The next line that a script prints; the test fails with its traceback if it died."""
    assert child.stdout is not None
    assert child.stderr is not None
    text = child.stdout.readline().strip()
    assert text, child.stderr.read()
    return text


# Samples --------------------------------------------------------------------------------

Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["write", "gap"]), st.integers(0, 70)), min_size=1, max_size=30
)


@settings(max_examples=300, deadline=None)
@given(
    rate=st.integers(4, 16),
    extra=st.integers(0, 30),
    start=st.sampled_from(START_INDICES),
    steps=steps,
    data=st.data(),
)
def test_a_reader_reads_the_samples_that_were_written(
    rate: int, extra: int, start: int, steps: list[Step], data: st.DataObject
) -> None:
    capacity, margin = rate + extra, rate // 2
    with (
        ring(rate=rate, capacity=capacity, start_index=start) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        reference = np.zeros(0, np.float32)
        for kind, n in steps:
            if kind == "write":
                block = samples(start + len(reference), start + len(reference) + n)
                writer.write(block)
            else:
                block = np.zeros(n, np.float32)
                writer.gap(n)
            reference = np.concatenate([reference, block])
            end = start + len(reference)
            assert writer.index == reader.index == end

            announced = data.draw(st.integers(start, end))
            first = data.draw(st.integers(start, announced))
            last = data.draw(st.integers(first, announced))
            out = np.full(last - first, np.nan, np.float32)
            read = reader.read(first, out, announced)
            assert read == (first >= end - capacity + margin)
            if read:
                np.testing.assert_array_equal(out, reference[first - start : last - start])


def test_an_announced_position_counts_before_its_index_is_visible() -> None:
    with (
        ring(rate=8, capacity=20) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(0, 20))
        out = np.zeros(4, np.float32)
        assert reader.read(4, out, 20)
        assert not reader.read(4, out, 21)
        assert reader.read(5, out, 21)


@pytest.mark.parametrize("start", START_INDICES)
def test_the_whole_ring_but_the_margin_can_be_read(start: int) -> None:
    with (
        ring(rate=8, capacity=20, start_index=start) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(start, start + 50))
        out = np.zeros(16, np.float32)
        assert reader.read(start + 34, out, start + 50)
        np.testing.assert_array_equal(out, samples(start + 34, start + 50))
        assert not reader.read(start + 33, out, start + 50)


def test_blocks_may_be_views_with_any_stride() -> None:
    stereo = samples(0, 40).reshape(20, 2)
    with ring() as owner, RingWriter.attach(owner.name) as writer:
        writer.write(stereo[:, 1])
        with RingReader.attach(owner.name) as reader:
            out = np.zeros((10, 2), np.float32)
            assert reader.read(5, out[:, 0], 20)
            np.testing.assert_array_equal(out[:, 0], stereo[5:15, 1])


@pytest.mark.parametrize("wrong", [np.zeros(4), np.zeros((2, 2), np.float32), np.float32(1)])
def test_only_float32_vectors_are_written(wrong: NDArray[np.float32]) -> None:
    with ring() as owner, RingWriter.attach(owner.name) as writer:
        with pytest.raises(ValueError, match="float32"):
            writer.write(wrong)
        assert writer.index == 0


def test_a_span_past_the_announced_position_is_a_value_error() -> None:
    with (
        ring() as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(0, 10))
        for start, n in [(0, 6), (5, 1), (-1, 1)]:
            with pytest.raises(ValueError, match="not below 5"):
                reader.read(start, np.zeros(n, np.float32), 5)


def test_a_reader_cannot_write_by_accident() -> None:
    with ring() as owner, RingReader.attach(owner.name) as reader:
        assert not reader._samples.flags.writeable


# Gaps -----------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(start=st.sampled_from(START_INDICES), steps=steps)
def test_gaps_are_the_missing_samples_that_the_ring_holds(start: int, steps: list[Step]) -> None:
    capacity = 100
    with (
        ring(capacity=capacity, start_index=start) as owner,
        RingWriter.attach(owner.name) as writer,
    ):
        missing: list[bool] = []
        for kind, n in steps:
            if kind == "write":
                writer.write(samples(writer.index, writer.index + n))
            else:
                writer.gap(n)
            missing += [kind == "gap"] * n
            oldest = start + len(missing) - capacity
            expected = runs([start + i for i, gone in enumerate(missing) if gone])
            if start:  # no sample exists before the first
                joined = bool(expected) and expected[0][0] == start
                expected = [(0, expected[0][1] if joined else start), *expected[joined:]]
            assert writer.gaps() == [(a, b) for a, b in expected if b > oldest]
            assert writer.lost == sum(missing)


def runs(positions: list[int]) -> list[tuple[int, int]]:
    """Consecutive numbers, in order, as spans."""
    spans: list[tuple[int, int]] = []
    for position in positions:
        if spans and spans[-1][1] == position:
            spans[-1] = (spans[-1][0], position + 1)
        else:
            spans.append((position, position + 1))
    return spans


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=2 * MAX_GAPS))
def test_a_full_table_merges_the_spans_with_the_smallest_distance(
    lengths: list[tuple[int, int]],
) -> None:
    spans: list[tuple[int, int]] = []
    reference: list[tuple[int, int]] = []
    at = 0
    for distance, length in lengths:
        at += distance
        spans = add_span(spans, at, at + length)
        reference.append((at, at + length))
        at += length
        if len(reference) > MAX_GAPS:
            distances = [b[0] - a[1] for a, b in itertools.pairwise(reference)]
            i = distances.index(min(distances))
            reference[i : i + 2] = [(reference[i][0], reference[i + 1][1])]
        assert spans == reference
    assert len(spans) <= MAX_GAPS


def test_many_gaps_stay_within_the_table_and_cover_every_missing_sample() -> None:
    dice = random.Random(1)
    with ring(rate=8, capacity=4000) as owner:
        missing: list[int] = []
        with RingWriter.attach(owner.name) as writer:
            for _ in range(500):
                writer.write(samples(writer.index, writer.index + dice.randrange(1, 20)))
                n = dice.randrange(1, 5)
                missing += range(writer.index, writer.index + n)
                writer.gap(n)
            spans, lost = writer.gaps(), writer.lost
            oldest = writer.index - writer.capacity
        assert lost == len(missing)
        assert 1 < len(spans) <= MAX_GAPS
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
        for position in missing:
            assert position < oldest or any(a <= position < b for a, b in spans)
        with RingWriter.attach(owner.name) as writer:
            assert (writer.gaps(), writer.lost) == (spans, lost)


def test_a_gap_of_days_is_one_span_over_a_silent_ring() -> None:
    days = 16000 * 3600 * 100
    with (
        ring(rate=16000, capacity=32000) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(samples(0, 40000))
        writer.gap(days)
        assert writer.gaps() == [(40000, 40000 + days)]
        assert writer.lost == days
        out = np.ones(24000, np.float32)
        assert reader.read(writer.index - 24000, out, writer.index)
        assert not out.any()


# The header -----------------------------------------------------------------------------


def test_the_header_has_rate_run_generation_and_anchor() -> None:
    with ring(rate=16000, capacity=17000, start_index=7) as owner:
        us = ProcessIdentity.current()
        assert owner.name.startswith(f"sep.{us}.{LABEL}-")
        assert (SHM / owner.name).stat().st_mode & 0o777 == 0o600
        with RingReader.attach(owner.name) as reader, RingWriter.attach(owner.name) as writer:
            for user in (reader, writer):
                assert (user.name, user.run) == (owner.name, RUN)
                assert (user.sample_rate, user.capacity) == (16000, 17000)
                assert (user.generation, user.index) == (1, 7)
            assert writer.anchor == (7, 0.0, 0.0)
            # The samples before the first never existed and are not lost.
            assert (writer.gaps(), writer.lost) == ([(0, 7)], 0)


def test_all_memory_is_allocated_at_the_start() -> None:
    with ring(rate=16000, capacity=480_000) as owner:
        status = (SHM / owner.name).stat()
        assert status.st_blocks * 512 >= status.st_size >= 480_000 * 4


def test_the_next_writer_continues_at_the_index_of_the_last() -> None:
    with ring(capacity=100) as owner:
        for generation in range(1, 5):
            with RingWriter.attach(owner.name) as writer:
                assert writer.generation == generation
                index = 10 * (generation - 1)
                assert writer.index == index
                assert writer.lost == 3 * (generation - 1)
                assert len(writer.gaps()) == generation - 1
                if index:
                    assert writer.anchor == (index, index / 3, index / 7)
                writer.write(samples(index, index + 7))
                writer.gap(3)
                writer.set_anchor(index + 10, (index + 10) / 3, (index + 10) / 7)


def test_close_may_be_called_twice_and_attached_memory_outlives_its_name() -> None:
    owner = ring()
    writer, reader = RingWriter.attach(owner.name), RingReader.attach(owner.name)
    owner.unlink()
    owner.unlink()
    writer.write(samples(0, 10))
    out = np.zeros(10, np.float32)
    assert reader.read(0, out, 10)
    np.testing.assert_array_equal(out, samples(0, 10))
    for user in (writer, reader):
        user.close()
        user.close()


# Refused segments ------------------------------------------------------------------------


@pytest.mark.parametrize("user", [RingReader, RingWriter])
@pytest.mark.parametrize(
    ("offset", "content", "message"),
    [
        (0, b"OTHERONE", "header is not known"),
        (8, b"\x63\0\0\0", "layout 99"),
        (40, boot_id()[::-1].encode(), "another boot"),
        (40, b"\xff" * 36, "another boot"),
        (16, (1 << 40).to_bytes(8, "little"), "shorter than its header"),
    ],
)
def test_an_unknown_header_is_refused(
    user: type[RingReader | RingWriter], offset: int, content: bytes, message: str
) -> None:
    with ring() as owner:
        with (SHM / owner.name).open("r+b") as file:
            file.seek(offset)
            file.write(content)
        with pytest.raises(UserError, match=message):
            user.attach(owner.name)


@pytest.mark.parametrize(
    ("size", "message"), [(0, "cannot be attached"), (100, "too small"), (9999, "not known")]
)
def test_a_segment_that_is_no_ring_is_refused(size: int, message: str) -> None:
    path = SHM / f"sep.{ProcessIdentity.current()}.{LABEL}-no-ring"
    path.write_bytes(bytes(size))
    try:
        with pytest.raises(UserError, match=message):
            RingReader.attach(path.name)
        assert path.exists()
    finally:
        path.unlink()


@pytest.mark.parametrize("name", ["", "main", "sep.1.2", "sep.1.2.../x", "/etc/passwd", "sep.1.2."])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not the name of a ring"):
        RingReader.attach(name)


def test_a_missing_ring_is_refused() -> None:
    with pytest.raises(UserError, match="is not there"):
        RingWriter.attach("sep.1.2.main")


def test_a_stream_has_one_ring() -> None:
    with ring() as owner:
        stream = owner.name.rpartition(".")[2]
        with pytest.raises(UserError, match="exists"):
            create_ring(stream, sample_rate=8, capacity=20, run=RUN)
        RingReader.attach(owner.name).close()


@pytest.mark.parametrize("stream", ["", "a.b", "Main", "a/b", "ä"])
def test_a_stream_needs_a_proper_name(stream: str) -> None:
    with pytest.raises(UserError, match="a name is"):
        create_ring(stream, sample_rate=8, capacity=20, run=RUN)


def test_too_little_room_is_reported_in_bytes() -> None:
    room = os.statvfs(SHM)
    capacity = room.f_bavail * room.f_frsize + 10**9
    with pytest.raises(UserError) as error:
        ring(rate=16000, capacity=capacity)
    needed, free = (int(word) for word in str(error.value).split() if word.isdigit())
    assert needed >= 4 * capacity
    assert 0 <= free <= room.f_blocks * room.f_frsize


def test_room_that_another_program_took_first_is_no_sigbus(monkeypatch: pytest.MonkeyPatch) -> None:
    room = os.statvfs(SHM)
    if not room.f_blocks:
        pytest.skip("this /dev/shm has no limit")
    capacity = room.f_blocks * room.f_frsize  # needs four times the whole room
    everything = os.statvfs_result((*room[:2], *[2**50] * 3, *room[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: everything)
    with pytest.raises(UserError, match=r"needs \d+ bytes"):
        ring(rate=16000, capacity=capacity)


def test_a_live_writer_is_kept_and_a_killed_one_is_replaced(script: Script) -> None:
    with ring(rate=8, capacity=40) as owner:
        code = """
import numpy as np
writer = RingWriter.attach(sys.argv[1])
writer.write(np.arange(10, dtype=np.float32)); writer.gap(5); writer.set_anchor(15, 1.0, 2.0)
print("written", flush=True)
sys.stdin.read()
"""
        child = script(code, owner.name)
        assert line(child) == "written"
        with pytest.raises(UserError, match=f"process {child.pid} writes"):
            RingWriter.attach(owner.name)
        assert RingReader.attach(owner.name).generation == 1
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie does not write
        with RingWriter.attach(owner.name) as writer:
            assert (writer.generation, writer.index, writer.lost) == (2, 15, 5)
            assert (writer.gaps(), writer.anchor) == ([(10, 15)], (15, 1.0, 2.0))
            with pytest.raises(UserError, match="writes to it"):
                RingWriter.attach(owner.name)
            writer.write(samples(15, 20))  # the refused writer did not release the ring
        RingWriter.attach(owner.name).close()


def test_of_several_writers_at_once_one_attaches(script: Script) -> None:
    code = """
import time
import numpy
from speech_emotion.common.errors import UserError
print("ready", flush=True)
start = float(sys.stdin.readline())
writers = []
for name in sys.argv[1:]:
    start += 0.001
    while time.monotonic() < start: pass
    try:
        writers.append(RingWriter.attach(name))
    except UserError:
        pass
print(len(writers), flush=True)
sys.stdin.read()
"""
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(ring()).name for _ in range(200)]
        children = [script(code, *names) for _ in range(2)]
        assert [line(child) for child in children] == ["ready"] * 2
        start = time.monotonic() + 0.05
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{start}\n")
            child.stdin.flush()
        assert sum(int(line(child)) for child in children) == len(names)
        assert {RingReader.attach(name).generation for name in names} == {1}


# Other processes ------------------------------------------------------------------------


def test_a_process_that_attaches_and_ends_removes_nothing(script: Script) -> None:
    with ring() as owner, RingWriter.attach(owner.name) as writer:
        writer.write(samples(0, 10))
        code = """
from multiprocessing import resource_tracker
reader = RingReader.attach(sys.argv[1])  # never closed
assert resource_tracker._resource_tracker._fd is None, "a tracker was started"
print(reader.index, flush=True)
"""
        out, errors = script(code, owner.name).communicate()
        assert (out, errors) == ("10\n", "")
        RingReader.attach(owner.name).close()


def test_the_owner_needs_no_tracker_and_no_numpy(script: Script) -> None:
    code = """
from multiprocessing import resource_tracker
with create_ring(sys.argv[1], sample_rate=8, capacity=20, run="0" * 16) as owner:
    pass
assert resource_tracker._resource_tracker._fd is None, "a tracker was started"
assert "numpy" not in sys.modules
"""
    out, errors = script(code, f"{LABEL}-light").communicate()
    assert (out, errors) == ("", "")


def test_other_shared_memory_stays_tracked(script: Script) -> None:
    with ring() as owner:
        code = """
import threading
import numpy
sys.setswitchinterval(1e-6)
from multiprocessing.shared_memory import SharedMemory
done = threading.Event()
def attach():
    while not done.is_set():
        RingReader.attach(sys.argv[1]).close()
threads = [threading.Thread(target=attach) for _ in range(2)]
for thread in threads: thread.start()
theirs = [SharedMemory(f"{sys.argv[2]}-{i}", create=True, size=1) for i in range(200)]
for memory in theirs[:100]: memory.close(), memory.unlink()
done.set()
for thread in threads: thread.join()
for memory in theirs[100:]: memory.close()  # the tracker has to unlink these
"""
        child = script(code, owner.name, f"{LABEL}-theirs")
        _, errors = child.communicate()
        assert child.returncode == 0, errors
        assert "100 leaked shared_memory objects" in errors
        assert "Traceback" not in errors
        assert not list(SHM.glob(f"{LABEL}-theirs*"))
        RingReader.attach(owner.name).close()


def test_the_ring_of_a_killed_owner_is_reclaimed(script: Script) -> None:
    code = """
owner = create_ring(sys.argv[1], sample_rate=8, capacity=20, run="0" * 16)
print(owner.name, flush=True)
sys.stdin.read()
"""
    foreign = [SHM / f"jack_db-{LABEL}", SHM / f"sep.{LABEL}", SHM / f"sep.1.2.{LABEL}.x"]
    for path in foreign:
        path.touch()
    try:
        child = script(code, f"{LABEL}-dead")
        name = line(child)
        with ring() as owner:
            assert not {name, owner.name} & set(reclaim_segments())
            RingReader.attach(name).close()
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert name in reclaim_segments()
            assert name not in reclaim_segments()
            assert not (SHM / name).exists()
            RingReader.attach(owner.name).close()
        assert all(path.exists() for path in foreign)
    finally:
        for path in foreign:
            path.unlink()


def test_a_reader_racing_a_writer_gets_the_right_samples_or_none(script: Script) -> None:
    rate, capacity, length = 8000, 16000, 1000
    start = 2**32 - 10 * capacity
    code = """
import numpy as np
writer = RingWriter.attach(sys.argv[1])
positions = np.arange(65536)
lengths = [1, 7, 160, 999, 4000, 20000, 65536]
i = 0
while True:
    n = lengths[i % 7]; i += 1
    writer.write(((positions[:n] + writer.index) % 8_388_593 + 1).astype(np.float32))
"""
    with (
        ring(rate=rate, capacity=capacity, start_index=start) as owner,
        RingReader.attach(owner.name) as reader,
    ):
        script(code, owner.name)
        dice = random.Random(2)
        out = np.zeros(length, np.float32)
        safe = overwritten = 0
        while reader.index < start + 20 * capacity or safe < 1000 or overwritten < 20:
            announced = reader.index
            oldest = announced - capacity + rate // 2
            # At the newest announced samples, or next to the samples being overwritten.
            first = dice.choice([oldest + dice.randrange(200), announced - 2 * length])
            if first < start:
                continue
            if reader.read(first, out, announced):
                safe += 1
                np.testing.assert_array_equal(out, samples(first, first + length))
            else:
                overwritten += 1


# A writer's death ----------------------------------------------------------------------


class Killed(BaseException):
    """Ends a writer between two of its bytecodes, as SIGKILL would."""


def killed_after(bytecodes: int, call: Callable[..., object], *args: object) -> bool:
    """Run `call` for a number of bytecodes of the ring's code. False if it ended before."""
    left = bytecodes

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal left
        if Path(frame.f_code.co_filename).parent.name != "ring":
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
