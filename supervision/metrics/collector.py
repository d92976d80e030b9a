"""`health` as Prometheus metrics; off unless `metrics.port` is set.

http://ADDRESS:PORT/metrics. Every counter of docs/PROTOCOL.md is `sep_events_total{event=…}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire.public import Health, StageHealth, StreamHealth
from speech_emotion.supervision.restart_policy import ProcessState

PIPELINE_STATES = ("ok", "starting", "degraded")

STAGE_GAUGES: dict[str, tuple[str, Callable[[StageHealth], float | None]]] = {
    "heartbeat_age_seconds": ("Age of the newest heartbeat.", lambda s: s.heartbeat_age_s),
    "rate_hertz": ("Windows per second; of capture, ticks.", lambda s: s.rate_hz),
    "lag_seconds": (
        "Time from the capture of the newest window's last sample to the end of the stage's work.",
        lambda s: None if s.lag_ms is None else s.lag_ms / 1000.0,
    ),
    "cpu_ratio": ("CPU load, of one core.", lambda s: s.cpu_percent / 100.0),
    "resident_memory_bytes": ("Resident memory.", lambda s: s.rss_mb * 2**20),
}
STAGE_COUNTERS: dict[str, tuple[str, Callable[[StageHealth], float | None]]] = {
    "restarts": ("Starts after the first.", lambda s: s.restarts),
    "windows_dropped": ("Windows dropped because the ring no longer held them.", lambda s: s.drops),
}
STREAM_GAUGES: dict[str, tuple[str, Callable[[StreamHealth], float | None]]] = {
    "level_dbfs": ("RMS level.", lambda s: s.level_db),
    "clipped_ratio": ("Share of samples at full scale.", lambda s: s.clipped),
    "state_seconds": ("Time since the source entered its state.", lambda s: s.state_s),
    "gaps": ("Gaps in the sound in the ring.", lambda s: s.gaps),
    "snr_db": ("Loud against quiet parts of the last 30 s.", lambda s: s.quality.get("snr_db")),
    "bandwidth_hertz": ("Highest frequency.", lambda s: s.quality.get("bandwidth_hz")),
    "drift_ppm": (
        "Drift of the source's clock in parts per million; positive where it is fast.",
        lambda s: s.quality.get("drift_ppm"),
    ),
}
STREAM_COUNTERS: dict[str, tuple[str, Callable[[StreamHealth], float | None]]] = {
    "samples": ("Samples captured.", lambda s: s.position),
    "samples_lost": ("Samples lost since the start of the run.", lambda s: s.lost),
}


class HealthCollector(Collector):
    """Makes the metrics from the current `Health` at every scrape.

    Args:
        health: returns the current `Health`; called from the server's threads.
    """

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        health = self._health()
        pipeline = StateSetMetricFamily("sep_state", "State of the pipeline.")
        pipeline.add_metric([], {state: state == health.state for state in PIPELINE_STATES})
        yield pipeline
        stages = {stage.name: stage for stage in health.stages}
        yield _states("stage", {name: stage.state for name, stage in stages.items()}, ProcessState)
        yield from _families(GaugeMetricFamily, "stage", STAGE_GAUGES, stages)
        yield from _families(CounterMetricFamily, "stage", STAGE_COUNTERS, stages)
        streams = {stream.name: stream for stream in health.streams}
        yield _states("stream", {name: row.state for name, row in streams.items()}, SourceState)
        yield from _families(GaugeMetricFamily, "stream", STREAM_GAUGES, streams)
        yield from _families(CounterMetricFamily, "stream", STREAM_COUNTERS, streams)
        events = CounterMetricFamily(
            "sep_events", "Counters of `health`, by name.", labels=["event"]
        )
        for event, number in sorted(health.counters.items()):
            events.add_metric([event], number)
        yield events


def _states(kind: str, states: dict[str, str], known: type[Enum]) -> Metric:
    family = StateSetMetricFamily(f"sep_{kind}_state", f"State of a {kind}.", labels=[kind])
    for name, state in states.items():
        family.add_metric([name], {each.value: each.value == state for each in known})
    return family


def _families(
    make: type[GaugeMetricFamily] | type[CounterMetricFamily],
    kind: str,
    table: dict[str, tuple[str, Callable[[Any], float | None]]],
    rows: dict[str, Any],
) -> Iterator[Metric]:
    for name, (text, value) in table.items():
        family = make(f"sep_{kind}_{name}", text, labels=[kind])
        for row, message in rows.items():
            if (number := value(message)) is not None:
                family.add_metric([row], number)
        yield family
