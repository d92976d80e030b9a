"""What `info` and `health` report, from what the supervisor knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from speech_emotion.common.bundle.manifest import Bundle
from speech_emotion.common.hub.health import (
    STALLED_S,
    pipeline_health,
    remote_health,
    stage_health,
    stream_info,
)
from speech_emotion.common.hub.observed import Snapshot
from speech_emotion.common.wire import internal
from speech_emotion.common.wire.public import Health, Info, Mute, StageHealth
from speech_emotion.supervision.managed_process import ManagedProcess


class PipelineState:
    """The bundle in use, the streams and the processes. The hub's thread reads it.

    Args:
        runs: stream → id of its run.
        remote_infer: whether infer runs on another machine.

    Attributes:
        bundle: the bundle in use.
        processes: every process; set once, before the hub's thread starts.
    """

    def __init__(self, bundle: Bundle, runs: Mapping[str, str], *, remote_infer: bool) -> None:
        self.bundle = bundle
        self.runs = runs
        self.processes: Sequence[ManagedProcess] = ()
        self._remote_infer = remote_infer
        self._mute: Mute | None = None

    def muted(self, mute: Mute | None) -> None:
        """Report from now on why no sound is taken; None: sound is taken."""
        self._mute = mute

    def info(self, opened: internal.Open) -> Info:
        """The `info` of a stream that capture has opened."""
        return stream_info(opened, self.bundle)

    def health(self, snapshot: Snapshot) -> Health:
        """The `health` of the whole pipeline."""
        rows = [self._row(process, snapshot) for process in self.processes]
        if self._remote_infer:
            rows.append(remote_health("infer", snapshot.heartbeats.get("infer")))
        expected = {
            stream: (self.runs[stream], process.name)
            for process in self.processes
            for stream in process.streams
        }
        spec = self.bundle.spec
        slowest = spec.window_s + 3.0 * spec.hop / spec.sample_rate
        health = pipeline_health(snapshot, rows, expected, max(STALLED_S, slowest))
        return dataclasses.replace(health, mute=self._mute)

    def heartbeat_names(self) -> list[str]:
        """Names under which heartbeats arrive: every process and every standby process."""
        names = [process.name for process in self.processes]
        names += [standby_name(p.name) for p in self.processes if p.kind.uses_bundle]
        return names + ["infer"] * self._remote_infer

    @staticmethod
    def _row(process: ManagedProcess, snapshot: Snapshot) -> StageHealth:
        lifecycle, child = process.lifecycle, process.child
        return stage_health(
            process.name,
            snapshot.heartbeats.get(process.name),
            state=lifecycle.state.value,
            pid=child.pid if child else 0,
            restarts=lifecycle.restarts,
            reason=lifecycle.reason,
        )


def standby_name(process: str) -> str:
    """The name under which the process reports that is to replace another one."""
    return f"{process}+next"
