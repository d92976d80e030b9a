"""Whether a pipeline works with a new bundle, by what it publishes. Pure."""

from __future__ import annotations

import statistics

from speech_emotion.common.wire import public

SETTLED_S = 5.0
"""A source that has been live for this long gives results."""
LONGER_S = 10.0
"""How much longer than asked for the first result is awaited."""
BUNDLE_STAGES = ("features", "infer")
OVERRUN = "windows_overrun"
"""Counter of windows that were lost because a stage was too slow."""


class Watch:
    """Observes from the moment at which the bundle is in use.

    Args:
        bundle: its id.
        seconds: for how long.
        max_ms: greatest median latency of results in milliseconds.
        now: CLOCK_MONOTONIC in seconds.

    Attributes:
        tried: whether a result was published under the bundle.
        fault: what is wrong; None while all is well.
    """

    def __init__(self, bundle: str, seconds: float, max_ms: float, now: float) -> None:
        self.tried = False
        self.fault: str | None = None
        self._bundle = bundle
        self._end = now + seconds
        self._max_ms = max_ms
        self._latencies: list[float] = []
        self._newest: dict[str, float] = {}
        self._stages: dict[str, tuple[int, int]] = {}
        self._overrun: int | None = None
        self._live = False

    def feed(self, message: public.Public, now: float) -> None:
        """Take a message of the pipeline."""
        match message:
            case public.Result():
                self._result(message, now)
            case public.Health() if self.tried or now >= self._end:
                # An earlier one can be of the processes before.
                self._health(message, now)
            case public.Health():
                self._live = _settled(message)

    def over(self, now: float) -> bool:
        """Whether the time is over; `fault` is final then."""
        if self.fault is not None:
            return True
        if now < self._end:
            return False
        if not self.tried and self._live:
            if now < self._end + LONGER_S:
                return False
            self.fault = "no result, though sound arrives"
        elif self._latencies and (found := statistics.median(self._latencies)) > self._max_ms:
            limit = f"the limit is {self._max_ms:g}"
            self.fault = f"too slow: half of the results take more than {found:.0f} ms; {limit}"
        return True

    def _result(self, result: public.Result, now: float) -> None:
        if result.bundle != self._bundle:
            if self.tried:  # else it was published before the exchange
                self.fault = f"{result.bundle} is in use again"
            return
        self.tried = True
        self._newest[result.stream] = now
        if result.time is not None and result.timing_ms is not None:
            self._latencies.append(result.timing_ms.get("total", 0.0))

    def _health(self, health: public.Health, now: float) -> None:
        self._live = _settled(health)
        for stage in health.stages:
            if stage.name.partition("/")[0] not in BUNDLE_STAGES:
                continue
            life = (stage.pid, stage.restarts)
            if self._stages.setdefault(stage.name, life) != life:
                self.fault = f"{stage.name} was restarted: {stage.reason or 'no cause is known'}"
        overrun = health.counters.get(OVERRUN, 0)
        if self._overrun is None:
            self._overrun = overrun
        elif overrun > self._overrun:
            self.fault = f"too slow: {overrun - self._overrun} windows were lost"
        for row in health.streams:
            silent_s = now - self._newest.get(row.name, now)
            if row.state == "live" and row.state_s >= SETTLED_S and silent_s > SETTLED_S:
                self.fault = f"{row.name}: no result for {silent_s:.0f} s"


def _settled(health: public.Health) -> bool:
    return any(row.state == "live" and row.state_s >= SETTLED_S for row in health.streams)
