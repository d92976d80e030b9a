"""An attached ring: what writer and reader have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from speech_emotion.common.closing import Closing
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.layout import (
    ANCHOR_IN_USE,
    ANCHORS,
    GENERATION,
    HEADER_BYTES,
    INDEX,
    MAX_GAPS,
    NAME,
    TABLES,
    segment_inode,
)
from speech_emotion.common.ring.shared_memory import (
    buffer_of,
    header_of,
    open_segment,
    read_fixed_fields,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]


class AttachedRing(Closing):
    """Base of `RingWriter` and `RingReader`.

    Attributes:
        name, run: the segment's name and the run id.
        sample_rate, capacity: Hz, samples.
    """

    _closed = True

    def __init__(self, name: str) -> None:
        import numpy as np

        if not NAME.fullmatch(name):
            raise UserError(f"{name!r} is not the name of a ring")
        try:
            segment = open_segment(name)
        except FileNotFoundError:
            raise UserError(f"ring {name}: is not there; has its owner ended?") from None
        except (OSError, ValueError) as error:
            raise UserError(f"ring {name}: cannot be attached ({error})") from None
        try:
            rate, capacity, run = read_fixed_fields(name, segment)
        except UserError:
            segment.close()
            raise
        self.name = name
        self.run = run
        self.sample_rate = rate
        self.capacity = capacity
        self._margin = rate // 2
        self._segment = segment
        self._inode = segment_inode(name)
        self._words = header_of(segment).cast("q")
        self._times = header_of(segment).cast("d")
        self._samples: Samples = np.frombuffer(
            buffer_of(segment), "<f4", count=capacity, offset=HEADER_BYTES
        )
        self._dtype = self._samples.dtype
        self._closed = False

    @classmethod
    def attach(cls, name: str) -> Self:
        """Attach a ring by its name.

        Raises:
            UserError: the segment does not exist, or is not of our layout or of this boot; for
                a writer: the ring has a writer that is alive.
        """
        return cls(name)

    @property
    def generation(self) -> int:
        """Number of writers that this ring has had."""
        return self._words[GENERATION]

    @property
    def index(self) -> int:
        """Absolute index after the last sample written."""
        return self._words[INDEX]

    @property
    def anchor(self) -> tuple[int, float, float]:
        """Sample index, CLOCK_MONOTONIC and unix time of one moment; times 0.0 if never set."""
        at = ANCHORS[self._words[ANCHOR_IN_USE]]
        return self._words[at], self._times[at + 1], self._times[at + 2]

    def _read_table(self) -> tuple[int, int, list[tuple[int, int]]]:
        """Index of the gap table in use, its count of lost samples, its spans."""
        ends = [self._words[until] for until in TABLES]
        table = max((0, 1), key=lambda i: -1 if ends[i] > self.index else ends[i])
        _, lost, count, *bounds = self._words[TABLES[table] : TABLES[table] + 3 + 2 * MAX_GAPS]
        bounds = bounds[: 2 * count]
        return table, lost, list(zip(bounds[::2], bounds[1::2], strict=True))

    def removed(self) -> bool:
        """Whether the segment was unlinked: no other process can attach it any more."""
        return self._inode is None or segment_inode(self.name) != self._inode

    def close(self) -> None:
        """Detach. The second call does nothing."""
        if not self._closed:
            self._closed = True
            del self._samples  # memory with a view of it cannot be unmapped
            self._words.release()
            self._times.release()
            self._segment.close()

    def __del__(self) -> None:
        self.close()
