"""Segments that are refused, and rings shared by real processes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import numpy as np
import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.process_identity import ProcessIdentity, boot_id
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.segment import create_ring, reclaim_segments
from speech_emotion.common.ring.writer import RingWriter
from tests.support.rings import (
    LABEL,
    RUN,
    SHM,
    Script,
    line,
    ring,
    samples,
)

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
        reclaimed: set[str] = set()
        while not reclaimed:  # a pipeline that another worker starts may be the first to do it
            child = script(code, f"{LABEL}-dead")
            name = line(child)
            with ring() as owner:
                assert not {name, owner.name} & set(reclaim_segments())
                RingReader.attach(name).close()
                child.kill()
                os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
                reclaimed = {name} & set(reclaim_segments())
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
