"""What a running pipeline owns: rings, hub, control socket, processes, metrics."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from speech_emotion.common.bundle.manifest import Bundle, copy_bundle
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import UserError
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.linux.runtime_dir import create_runtime_dir
from speech_emotion.common.ring.segment import create_ring
from speech_emotion.common.security.exposure import listen_tcp
from speech_emotion.common.stage.jobs import CaptureJob
from speech_emotion.supervision.control_socket import ControlSocket
from speech_emotion.supervision.managed_process import ManagedProcess
from speech_emotion.supervision.pipeline_state import PipelineState
from speech_emotion.supervision.process_table import Plan, PlannedProcess, planned_processes


@dataclasses.dataclass(frozen=True)
class Resources:
    """Everything that a pipeline owns until `close`.

    Attributes:
        folder: runtime folder: sockets and copies of bundles.
        state: what `info` and `health` report.
        hub: the results hub; its thread is not started yet.
        control: socket for requests such as a bundle swap.
        processes: every process of the pipeline; none is started yet.
    """

    folder: Path
    state: PipelineState
    hub: Hub
    control: ControlSocket
    processes: list[ManagedProcess]
    _stack: ExitStack

    def close(self) -> None:
        """Release everything, the newest first."""
        self._stack.close()


def check(config: Config, bundle: Bundle) -> None:
    """Raises UserError where the pipeline cannot run with a configuration."""
    if config.ring.seconds < (least := 2.0 * bundle.spec.window_s + 2.0):
        raise UserError(f"ring.seconds = {config.ring.seconds:g} must be at least {least:g}")
    if config.dashboard.listen is not None:
        if importlib.util.find_spec("uvicorn") is None:
            raise UserError("the live page needs more packages: pip install -e '.[dashboard]'")
        listen_tcp(config.dashboard.listen).close()


def build(
    config: Config,
    bundle: Bundle,
    profiles: Mapping[str, str],
    *,
    write: Callable[[str], None],
    wake: Callable[[], None],
) -> Resources:
    """Create everything that the pipeline owns.

    Args:
        profiles: stage → file for the cProfile data of its processes.
        write: takes the lines that the processes write to stderr.
        wake: wakes the supervisor's loop.

    Raises:
        UserError: a part of it cannot be created.
    """
    stack = ExitStack()
    try:
        folder = create_runtime_dir()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        # A stage that restarts after months must read the same bundle, whatever has happened to
        # the original.
        bundle = copy_bundle(bundle, folder / "bundle")
        control = ControlSocket(folder)
        stack.callback(control.close)
        runs = {stream.name: secrets.token_hex(8) for stream in config.stream}
        rings = _rings(config, bundle, runs, stack)
        state = PipelineState(bundle, runs, remote_infer=config.infer_host.wanted is not None)
        hub = _hub(config, state, f"ipc://{folder}/hub", inner := f"ipc://{folder}/results")
        hub.stage_changed = wake
        stack.callback(hub.stop)
        # The pipeline's own processes need neither keys nor a port.
        inside = config.model_copy(update={"results": inner})
        plan = Plan(inside, bundle, rings, f"ipc://{folder}/hub", folder, _user_stdin(config))
        processes = [
            ManagedProcess(
                planned,
                time.monotonic(),
                arguments=_arguments(planned, profiles),
                inherit=_inherit(planned, plan.stdin),
                write=write,
                wake=wake,
            )
            for planned in planned_processes(plan)
        ]
        state.processes = processes
        hub.expect(state.heartbeat_names(), runs)
        _serve_metrics(config, state, hub, stack)
    except BaseException:
        stack.close()
        raise
    return Resources(folder, state, hub, control, processes, stack)


def _rings(
    config: Config, bundle: Bundle, runs: Mapping[str, str], stack: ExitStack
) -> dict[str, str]:
    """Create the rings: stream → name of its segment."""
    rate = bundle.spec.sample_rate
    capacity = round(config.ring.seconds * rate)
    return {
        stream: stack.enter_context(
            create_ring(stream, sample_rate=rate, capacity=capacity, run=run)
        ).name
        for stream, run in runs.items()
    }


def _serve_metrics(config: Config, state: PipelineState, hub: Hub, stack: ExitStack) -> None:
    if config.metrics.port is not None:
        from speech_emotion.supervision.metrics_server import MetricsServer

        address, port, token = config.metrics.address, config.metrics.port, config.metrics.token
        server = MetricsServer(address, port, lambda: state.health(hub.snapshot()), token)
        stack.callback(server.close)


def _hub(config: Config, state: PipelineState, stages: str, inner: str) -> Hub:
    host = config.infer_host.wanted
    return Hub(
        config.results,
        stages,
        info=state.info,
        health=state.health,
        bundle=state.bundle.id,
        inner=inner,
        remote=(host.hub, host.lock) if host else None,
        lock=config.curve.lock,
        unprotected=config.curve.unprotected,
    )


def _user_stdin(config: Config) -> int:
    """Descriptor of the user's standard input for capture, whose own carries its job; else 0."""
    return os.dup(0) if any(s.source.startswith("stdin:") for s in config.stream) else 0


def _inherit(planned: PlannedProcess, stdin: int) -> tuple[int, ...]:
    job = planned.job
    reads_stdin = isinstance(job, CaptureJob) and job.streams[0].source.startswith("stdin:")
    return (stdin,) if reads_stdin else ()


def _arguments(planned: PlannedProcess, profiles: Mapping[str, str]) -> tuple[str, ...]:
    file = profiles.get(planned.kind.name)
    return () if file is None else ("--profile", file)
