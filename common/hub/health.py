"""What `health` and `info` say, made from heartbeats and from what the supervisor knows."""

from __future__ import annotations

import time
from collections.abc import Mapping

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.hub.hub import Hub, ReceivedHeartbeat
from speech_emotion.common.source_state import SourceState
from speech_emotion.common.wire import internal, public
from speech_emotion.common.wire.states import FINE_STAGES, FINE_STREAMS

AWAY_S = 3.0
"""A stage on another machine that is silent for so long is away."""


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
    )


def stage_health(
    name: str,
    beat: ReceivedHeartbeat | None,
    *,
    state: str | None = None,
    pid: int | None = None,
    restarts: int = 0,
    reason: str | None = None,
) -> public.StageHealth:
    """One stage's row; `state` and `pid` as the supervisor sees them, else as the stage says."""
    heartbeat = beat.heartbeat if beat else None
    return public.StageHealth(
        name=name,
        pid=pid if pid is not None else heartbeat.pid if heartbeat else 0,
        state=state or (heartbeat.state if heartbeat else "starting"),
        restarts=restarts,
        heartbeat_age_s=round(time.monotonic() - beat.received, 3) if beat else None,
        rate_hz=heartbeat.rate_hz if heartbeat else 0.0,
        lag_ms=heartbeat.lag_ms if heartbeat else None,
        drops=heartbeat.drops if heartbeat else 0,
        cpu_percent=heartbeat.cpu_percent if heartbeat else 0.0,
        rss_mb=heartbeat.rss_mb if heartbeat else 0.0,
        reason=reason,
    )


def remote_health(name: str, beat: ReceivedHeartbeat | None) -> public.StageHealth:
    """The row of a stage on another machine, which nobody here can start."""
    age = time.monotonic() - beat.received if beat else None
    reason = None
    if age is None:
        reason = "its host has not connected yet"
    elif age > AWAY_S:
        reason = "nothing is heard from its host"
    return stage_health(name, beat, state="away" if reason else None, pid=0, reason=reason)


def stream_health(
    name: str, run: str, source: internal.SourceStatus | None, stage: public.StageHealth | None
) -> public.StreamHealth:
    """One stream's row: what its capture last said, unless that is gone and cannot say more.

    Args:
        source: what capture said, None before it ever did.
        stage: the row of the capture process, where it is known.
    """
    state = source.state if source else SourceState.STARTING.value
    reason = source.reason if source else None
    if stage is not None and stage.state not in FINE_STAGES and state != SourceState.ENDED.value:
        reason = stage.reason or reason
        if stage.state == "failed":
            state = SourceState.FAILED.value
        elif source is not None:
            # Capture says LOST itself, in its last words; then somebody is at it again.
            state = SourceState.RECOVERING.value
    heard = source is not None and state == source.state
    return public.StreamHealth(
        name=name,
        run=run,
        state=state,
        reason=reason,
        state_s=source.state_s if source and heard else 0.0,
        device=source.device if source else None,
        position=source.position if source else 0,
        level_db=source.level_db if source and heard else None,
        clipped=source.clipped if source and heard else 0.0,
        gaps=source.gaps if source else 0,
        lost=source.lost if source else 0,
    )


def pipeline_health(
    hub: Hub,
    stages: list[public.StageHealth],
    expected: Mapping[str, tuple[str, str]] | None = None,
) -> public.Health:
    """The whole of it: `ok` where every stage is ready and every source gives sound.

    Args:
        expected: run and capture stage of every stream there will be; a stream is told of
            before its source could be opened.
    """
    rows = {stage.name: stage for stage in stages}
    runs = {name: stream.opened.run for name, stream in list(hub.ledger.streams.items())}
    owners = {name: stage for name, (_, stage) in (expected or {}).items()}
    runs = {**{name: run for name, (run, _) in (expected or {}).items()}, **runs}
    streams = [
        stream_health(name, run, hub.sources.get(name), rows.get(owners.get(name, "")))
        for name, run in runs.items()
    ]
    fine = all(s.state in FINE_STAGES for s in stages) and all(
        s.state in FINE_STREAMS for s in streams
    )
    # What was there before and comes back is no start.
    starting = any(s.state == "starting" and not s.restarts for s in stages) or any(
        s.state == SourceState.STARTING.value for s in streams
    )
    counters = dict(hub.counters)
    for beat in list(hub.beats.values()):
        for name, count in beat.heartbeat.counters.items():
            counters[name] = counters.get(name, 0) + count
    return public.Health(
        time=time.time(),
        state="ok" if fine else "starting" if starting else "degraded",
        stages=stages,
        streams=streams,
        counters=counters,
    )


def observe(hub: Hub) -> public.Health:
    """`health` where nobody supervises: what the stages say of themselves."""
    return pipeline_health(hub, [stage_health(name, hub.beats[name]) for name in list(hub.beats)])
