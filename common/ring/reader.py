"""The reader of a ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from speech_emotion.common.ring.attached import AttachedRing

if TYPE_CHECKING:
    from speech_emotion.common.ring.attached import Samples


class RingReader(AttachedRing):
    """One of any number of readers. The writer does not know its readers."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._samples.flags.writeable = False

    def read(self, start: int, out: Samples, announced: int) -> bool:
        """Copy samples [start, start + len(out)) to `out`, float32 of shape (any,).

        Args:
            announced: position up to which a message announced samples. The span must not go
                past it.

        Returns:
            False if the span was overwritten or nearly so; then `out` may hold any values.
        """
        if start < 0 or start + len(out) > announced:
            raise ValueError(f"[{start}, {start + len(out)}) is not below {announced}")
        if not self._holds(start, announced):
            return False
        slot = start % self.capacity
        first = min(len(out), self.capacity - slot)
        out[:first] = self._samples[slot : slot + first]
        out[first:] = self._samples[: len(out) - first]
        return self._holds(start, announced)

    def gaps(self) -> list[tuple[int, int]]:
        """Spans [a, b) that the writer has declared missing, in order.

        Reads until two consecutive reads agree: the writer may be changing the table.
        """
        table, previous = self._read_table(), None
        while table != previous:
            table, previous = self._read_table(), table
        return table[2]

    def _holds(self, start: int, announced: int) -> bool:
        newest = max(announced, self.index)
        return start >= newest - self.capacity + self._margin
