"""The ring: the last seconds of one stream's samples in shared memory.

One writer and any number of readers share float32 mono samples. The writer overwrites the
oldest samples. No process waits or locks: sample i of the stream lies in slot i % capacity; the
writer stores the samples first and the write index after them; a reader copies first and then
checks whether the writer has come too close meanwhile.

Some processors (aarch64) do not make stores visible in order, and Python has no memory fences.
Two rules replace them. A reader never reads past a position that a message announced to it.
A span that will be overwritten within half a second of samples counts as overwritten. The
writer stores its index at least every quarter of a second of samples, so the samples that it may
be writing unseen lie well inside that half second.

The segment is `/dev/shm/sep.<pid>.<start time>.<stream>`, named after its owner, so that the
segments of ended owners are found without opening any. It holds a header of 4096 bytes and
then `capacity` samples. The header is little-endian:

    offset  type   field
         0  8s     magic
         8  u32    layout version
        12  u32    sample rate in Hz
        16  i64    capacity in samples
        24  16s    run id, 16 hex digits
        40  36s    boot id of the machine
        80  2 i64  owner: pid, start time
        96  2 i64  writer: pid, start time; 0, 0: none
       112  i64    generation: number of writers so far
       120  i64    write index: absolute index after the last sample
       128  i64    index (0 or 1) of the anchor in use
       136  2 x    anchor: i64 index, f64 CLOCK_MONOTONIC, f64 unix time
       184  2 x    gap table: i64 until, i64 lost, i64 count, 64 spans of i64 a, i64 b

A writer may be killed between any two stores. So every field that needs more than one store
exists twice: the writer fills the copy that is not in use, and one store puts it in use. For an
anchor this is the store of its index, for a gap table the store of the write index. The gap
table in use is the one with the greatest `until` that is not past the write index, and each
table is written with a greater `until` than the one before.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

FOLDER = Path("/dev/shm")
LAYOUT = 1
MAGIC = b"SEP-RING"
NAME_PREFIX = "sep."
NAME = re.compile(r"sep\.([0-9]+\.[0-9]+)\.[a-z0-9_-]+")
"""Name of a segment; the group is the identity of its owner."""

HEADER_BYTES = 4096
SAMPLE_BYTES = 4
FIXED_FIELDS = struct.Struct("<8sIIq16s36s4x2q")
"""Magic, layout, rate, capacity, run id, boot id, owner: written once."""

# The variable fields are 8 bytes each and aligned, so that one store writes one field. Their
# positions in a header seen as int64 (or float64) words:
WRITER_PID, WRITER_STARTED, GENERATION, INDEX, ANCHOR_IN_USE = 12, 13, 14, 15, 16
MAX_GAPS = 64
ANCHORS = (17, 20)
TABLES = (23, 26 + 2 * MAX_GAPS)


def segment_inode(name: str) -> int | None:
    """Inode of the segment that has this name now; None: no segment has it."""
    try:
        return os.stat(FOLDER / name).st_ino
    except OSError:
        return None
