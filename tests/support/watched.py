"""A running pipeline with one live source, and what its `health` reports."""

from __future__ import annotations

from collections.abc import Sequence

from speech_emotion.common.wire import public
from tests.support.pipelines import Running, wait_until

AFTER = 3
"""Results that are waited for while a source is live."""


class Watched:
    """A running pipeline with one network source, and what its `health` reports."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self._looked = 0

    def rows(self) -> list[public.StreamHealth | None]:
        """The source in each `health` so far; None in those before it was opened."""
        reports = self.running.received.fresh(public.Health)
        return [report.streams[0] if report.streams else None for report in reports]

    def wait_for(self, *states: str, word: str = "") -> public.StreamHealth:
        """The first report of one of these states, with a word of its reason.

        It may precede this call, but not the report that the last call returned: the source may
        leave a state before a busy machine lets the test look.
        """
        try:
            wait_until(
                lambda: self.find(*states, word=word) is not None, f"state {states} with {word!r}"
            )
        except BaseException:
            print(*self.rows()[self._looked :], sep="\n")
            raise
        found = self.find(*states, word=word)
        assert found is not None
        return found

    def find(self, *states: str, word: str = "") -> public.StreamHealth | None:
        """The same without waiting; None where it was not reported yet."""
        rows = self.rows()
        for number in range(self._looked, len(rows)):
            row = rows[number]
            if row is not None and row.state in states and word in (row.reason or ""):
                self._looked = number
                return row
        return None

    def wait_live(self) -> None:
        """Until sound is live, and a result of it was published."""
        self.wait_for("live")
        results = len(self.running.received.fresh(public.Result))
        self.running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= results + AFTER)

    def wait_heard_again(self) -> None:
        """Until sound is live after a loss, its gap and results after it were published."""
        self.wait_for("live")
        self.running.subscriber.wait_for(lambda r: _after_gap(r.fresh(public.Result)) >= AFTER)

    def end(self) -> list[public.Result]:
        """Stop it; its results without a missing one, the sample index in time."""
        self.running.process.terminate()
        code, stderr, received = self.running.ended()
        assert code == 0, stderr
        results = received.fresh(public.Result)
        seq = 0
        for result in results:
            assert result.seq == seq
            seq += max(1, result.skipped)
        assert abs(drift_s(results)) < 0.5  # a busy machine reads its servers late
        return results


def _after_gap(results: Sequence[public.Result]) -> int:
    """How many results follow the last one of missing samples; 0 where none are missing."""
    gaps = [number for number, result in enumerate(results) if result.lost]
    return len(results) - 1 - gaps[-1] if gaps else 0


def drift_s(results: Sequence[public.Result]) -> float:
    """Seconds that passed from the first results to the last ones, less those of their samples.

    A busy machine reads a block late, never early: of some results, the least delayed one counts.
    """
    began, ended = (
        min(r.time - r.end / r.rate for r in part if r.time is not None)
        for part in (results[:4], results[-4:])
    )
    return ended - began
