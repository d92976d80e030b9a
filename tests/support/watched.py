"""A running pipeline with one live source, and what its `health` reports."""

from __future__ import annotations

from speech_emotion.common.wire import public
from tests.support.pipelines import Running, wait_until


class Watched:
    """A running pipeline with one network source, and what its `health` reports."""

    def __init__(self, running: Running) -> None:
        self.running = running

    @property
    def row(self) -> public.StreamHealth | None:
        rows = self.running.received.fresh(public.Health)
        return rows[-1].streams[0] if rows and rows[-1].streams else None

    def wait_for(self, *states: str, word: str = "") -> public.StreamHealth:
        def there() -> bool:
            row = self.row
            return row is not None and row.state in states and word in (row.reason or "")

        try:
            wait_until(there, f"state {states} with {word!r}")
        except BaseException:
            print(self.row)
            raise
        assert self.row is not None
        return self.row

    def wait_live(self) -> None:
        """Until sound is live, and a result of it was published."""
        self.wait_for("live")
        results = len(self.running.received.fresh(public.Result))
        self.running.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= results + 3)

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
        first, last = results[0], results[-1]
        assert first.time is not None
        assert last.time is not None
        drift = (last.time - first.time) - (last.end - first.end) / last.rate
        assert abs(drift) < 0.5  # a busy machine reads its servers late
        return results
