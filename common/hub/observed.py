"""What the hub has received: newest heartbeats, states of sources, streams, counters."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Mapping

from speech_emotion.common.wire import internal

KEPT_COUNTERS = frozenset({"history_lost", "record_lost", "record_messages_lost"})
"""Counters that a restarted stage reads back from its files; it counts all others from zero."""


@dataclasses.dataclass(frozen=True)
class ReceivedHeartbeat:
    """The newest heartbeat of a stage.

    Attributes:
        received: when it came (CLOCK_MONOTONIC, seconds).
    """

    heartbeat: internal.Heartbeat
    received: float


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The state of the hub at one moment; a copy that no thread changes.

    Attributes:
        heartbeats: by stage.
        sources: by stream, what its capture process last reported.
        counters: by name; a missing name counts 0.
        runs: id of the run of every open stream, by stream.
        accepted: when the newest result was accepted (CLOCK_MONOTONIC, seconds), by stream.
        bundle: id of the bundle in force.
    """

    heartbeats: Mapping[str, ReceivedHeartbeat]
    sources: Mapping[str, internal.SourceStatus]
    counters: Counter[str]
    runs: Mapping[str, str]
    accepted: Mapping[str, float]
    bundle: str


class Observed:
    """The hub's state, shared between its own thread and all others.

    Rule: every method takes the one lock for its whole body and calls nothing outside, so any
    thread may call any method at any time; no thread gets at the tables otherwise.
    """

    def __init__(self, bundle: str) -> None:
        self._lock = threading.Lock()
        self._heartbeats: dict[str, ReceivedHeartbeat] = {}
        self._sources: dict[str, internal.SourceStatus] = {}
        self._counters: Counter[str] = Counter()
        self._runs: dict[str, str] = {}
        self._accepted: dict[str, float] = {}
        self._bundle = bundle

    def snapshot(self) -> Snapshot:
        """A copy of everything."""
        with self._lock:
            return Snapshot(
                dict(self._heartbeats),
                dict(self._sources),
                Counter(self._counters),
                dict(self._runs),
                dict(self._accepted),
                self._bundle,
            )

    def count(self, name: str, number: int = 1) -> int:
        """Add to a counter; its new value."""
        with self._lock:
            self._counters[name] += number
            return self._counters[name]

    def set_counter(self, name: str, value: int) -> None:
        """Set a counter that its owner counts itself."""
        with self._lock:
            self._counters[name] = value

    def heartbeat(self, message: internal.Heartbeat) -> tuple[bool, bool]:
        """Keep a heartbeat; whether the state of its stage, and of one of its sources, changed."""
        with self._lock:
            previous = self._heartbeats.get(message.stage)
            if previous is not None:
                before = previous.heartbeat.counters
                kept = {name: n for name, n in before.items() if name in KEPT_COUNTERS}
                if previous.heartbeat.pid != message.pid:
                    # A new process counts from zero; keep what its predecessor counted.
                    self._counters.update({k: n for k, n in before.items() if k not in kept})
                if kept:  # it has perhaps not read its files yet
                    kept = {name: max(n, message.counters.get(name, 0)) for name, n in kept.items()}
                    counters = {**message.counters, **kept}
                    message = dataclasses.replace(message, counters=counters)
            self._heartbeats[message.stage] = ReceivedHeartbeat(message, time.monotonic())
            sources_changed = False
            for status in message.streams:
                known = self._sources.get(status.stream)
                sources_changed |= known is not None and known.state != status.state
                self._sources[status.stream] = status
            stage_changed = previous is None or previous.heartbeat.state != message.state
            return stage_changed, sources_changed

    def forget(self, stage: str) -> None:
        """Remove the heartbeat of a stage that has ended for good."""
        with self._lock:
            self._heartbeats.pop(stage, None)

    def opened(self, stream: str, run: str) -> None:
        """Keep the run of a stream that was opened."""
        with self._lock:
            self._runs[stream] = run

    def accepted(self, stream: str) -> None:
        """Note that a result of a stream was accepted now."""
        with self._lock:
            self._accepted[stream] = time.monotonic()

    def use(self, bundle: str) -> None:
        """Keep the id of the bundle that is now in force."""
        with self._lock:
            self._bundle = bundle
