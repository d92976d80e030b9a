"""Makes `health` and `info` from heartbeats and from what the supervisor knows of its processes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.hub.observed import ReceivedHeartbeat, Snapshot
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire import internal, public
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS

STALLED_S = 5.0
"""Time in seconds without an accepted result at which a live stream is stalled."""
AWAY_S = 3.0
"""Age in seconds of the last heartbeat at which a stage on another machine counts as away."""


def stream_info(opened: internal.Open, bundle: Bundle) -> public.Info:
    """The `info` of a stream that capture has opened."""
    return public.Info(
        stream=opened.stream,
        run=opened.run,
        labels=list(bundle.labels),
        window=opened.window,
        hop=opened.hop,
        rate=opened.rate,
        bundle=bundle.id,
        source=opened.source,
        gate=bundle.spec.gate,
        gate_db=(
            bundle.spec.gate_margin_db if bundle.spec.gate == "adaptive" else bundle.spec.gate_dbfs
        ),
        min_confidence=bundle.decision.min_confidence,
    )


def stage_health(
    name: str,
    received: ReceivedHeartbeat | None,
    *,
    state: str | None = None,
    pid: int | None = None,
    restarts: int = 0,
    reason: str | None = None,
) -> public.StageHealth:
    """The row of one stage.

    Args:
        received: its newest heartbeat; None before the first.
        state, pid: as the supervisor knows them; None: as the heartbeat says.
        restarts: starts after the first.
        reason: why the stage last died.
    """
    heartbeat = received.heartbeat if received else None
    return public.StageHealth(
        name=name,
        pid=pid if pid is not None else heartbeat.pid if heartbeat else 0,
        state=state or (heartbeat.state if heartbeat else "starting"),
        restarts=restarts,
        heartbeat_age_s=round(time.monotonic() - received.received, 3) if received else None,
        rate_hz=heartbeat.rate_hz if heartbeat else 0.0,
        lag_ms=heartbeat.lag_ms if heartbeat else None,
        drops=heartbeat.drops if heartbeat else 0,
        cpu_percent=heartbeat.cpu_percent if heartbeat else 0.0,
        rss_mb=heartbeat.rss_mb if heartbeat else 0.0,
        reason=reason,
    )


def remote_health(name: str, received: ReceivedHeartbeat | None) -> public.StageHealth:
    """The row of a stage on another machine, which this supervisor cannot start."""
    age = time.monotonic() - received.received if received else None
    reason = None
    if age is None:
        reason = "its host has not connected yet"
    elif age > AWAY_S:
        reason = "nothing is heard from its host"
    return stage_health(name, received, state="away" if reason else None, pid=0, reason=reason)


def stream_health(
    name: str, run: str, source: internal.SourceStatus | None, stage: public.StageHealth | None
) -> public.StreamHealth:
    """The row of one stream: what its capture process last reported, while that process runs.

    Args:
        source: the last report; None before the first.
        stage: the row of the capture process, where it is known.
    """
    state = source.state if source else SourceState.STARTING.value
    reason = source.reason if source else None
    if stage is not None and stage.state not in FINE_STAGES and state != SourceState.ENDED.value:
        reason = stage.reason or reason
        if stage.state == "failed":
            state = SourceState.FAILED.value
        elif source is not None:
            # Capture reports LOST itself before it exits; its restart tries to get the source back.
            state = SourceState.RECOVERING.value
    current = source is not None and state == source.state
    return public.StreamHealth(
        name=name,
        run=run,
        state=state,
        reason=reason,
        state_s=source.state_s if source and current else 0.0,
        device=source.device if source else None,
        position=source.position if source else 0,
        level_db=source.level_db if source and current else None,
        clipped=source.clipped if source and current else 0.0,
        gaps=source.gaps if source else 0,
        lost=source.lost if source else 0,
        quality=source.quality if source and current else {},
    )


def pipeline_health(
    snapshot: Snapshot,
    stages: list[public.StageHealth],
    expected: Mapping[str, tuple[str, str]] | None = None,
    stalled_after: float = STALLED_S,
) -> public.Health:
    """The whole message; `ok` where every stage is ready and every source delivers sound.

    A live stream without an accepted result for `stalled_after` seconds makes it `degraded`,
    whatever the cause.

    Args:
        snapshot: of the hub.
        stages: the rows of all stages.
        expected: run and capture stage of every configured stream, by stream; such a stream has
            a row before its source could be opened.
    """
    rows = {stage.name: stage for stage in stages}
    owners = {name: stage for name, (_, stage) in (expected or {}).items()}
    stalled = stalled_streams(snapshot, time.monotonic(), stalled_after)
    runs = {**{name: run for name, (run, _) in (expected or {}).items()}, **snapshot.runs}
    streams = [
        stream_health(name, run, snapshot.sources.get(name), rows.get(owners.get(name, "")))
        for name, run in runs.items()
    ]
    streams = [
        dataclasses.replace(stream, reason=stream.reason or stalled.get(stream.name))
        for stream in streams
    ]
    fine = (
        not stalled
        and all(stage.state in FINE_STAGES for stage in stages)
        and all(stream.state in FINE_STREAMS for stream in streams)
    )
    # A stage that ran before and comes back is no start.
    starting = any(stage.state == "starting" and not stage.restarts for stage in stages) or any(
        stream.state == SourceState.STARTING.value for stream in streams
    )
    counters = dict(snapshot.counters)
    for received in snapshot.heartbeats.values():
        for name, count in received.heartbeat.counters.items():
            counters[name] = counters.get(name, 0) + count
    return public.Health(
        time=time.time(),
        state="ok" if fine else "starting" if starting else "degraded",
        stages=stages,
        streams=streams,
        counters=counters,
    )


def stalled_streams(snapshot: Snapshot, now: float, after: float) -> dict[str, str]:
    """Live streams whose accepted results stand still, with the reason as a phrase."""
    stalled = {}
    for name, source in snapshot.sources.items():
        if source.state != SourceState.LIVE.value or source.state_s < after:
            continue
        accepted = snapshot.accepted.get(name)
        if accepted is None:
            stalled[name] = "no result accepted yet"
        elif now - accepted > after:
            stalled[name] = f"no result accepted for {now - accepted:.0f} s"
    return stalled


def observe(snapshot: Snapshot) -> public.Health:
    """`health` of a pipeline without a supervisor: what its stages report of themselves."""
    rows = [stage_health(name, received) for name, received in snapshot.heartbeats.items()]
    return pipeline_health(snapshot, rows)
