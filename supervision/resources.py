"""What a running pipeline owns: rings, hub, control socket, processes, metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from speech_emotion.common.alert_address import parse_address
from speech_emotion.common.alert_rule import LEVEL
from speech_emotion.common.bundle.manifest import (
    MANIFEST,
    Bundle,
    copy_bundle,
)
from speech_emotion.common.config.load import ConfigError
from speech_emotion.common.config.model import Config, DashboardConfig
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.linux.runtime_dir import create_runtime_dir
from speech_emotion.common.linux.spool import is_pipe, spool
from speech_emotion.common.linux.standard_input import check_standard_input
from speech_emotion.common.privacy.mute_register import MuteRegister
from speech_emotion.common.ring.layout import FOLDER, HEADER_BYTES, SAMPLE_BYTES
from speech_emotion.common.ring.segment import RingOwner, create_ring
from speech_emotion.common.security.api_keys import default_key_file, load_api_keys
from speech_emotion.common.security.exposure import listen_tcp
from speech_emotion.common.stage.control import ALERTS, CONTROL
from speech_emotion.common.stage.jobs import CaptureJob, FeaturesJob
from speech_emotion.common.wire.public import Mute, to_json_map
from speech_emotion.dashboard.access.tls import Certificate
from speech_emotion.supervision.control_socket import ControlSocket
from speech_emotion.supervision.managed_process import ManagedProcess
from speech_emotion.supervision.pipeline_state import PipelineState
from speech_emotion.supervision.privacy.audit_events import note_key, open_audit
from speech_emotion.supervision.privacy.audit_writer import AuditWriter
from speech_emotion.supervision.privacy.light import Light, make_light
from speech_emotion.supervision.privacy.mute_control import MuteControl
from speech_emotion.supervision.process_table import Plan, PlannedProcess, planned_processes
from speech_emotion.supervision.restart_policy import ProcessState

MUTE = "mute"
"""Name of the file of the mute register in the runtime folder."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """Everything that a pipeline owns until `close`.

    Attributes:
        folder: runtime folder: sockets and copies of bundles.
        state: what `info` and `health` report.
        hub: the results hub; its thread is not started yet.
        control: socket for requests such as a bundle swap.
        processes: every process of the pipeline; none is started yet.
        mute: decides whether sound is taken.
        light: is on while sound is analysed; None: there is none.
        audit: writes the audit log.
        baseline: infer keeps a baseline of each stream, if the bundle can.
        plan: what the jobs are made from.
        managed: makes the process of a row of the process table.
    """

    folder: Path
    state: PipelineState
    hub: Hub
    control: ControlSocket
    processes: list[ManagedProcess]
    mute: MuteControl
    light: Light | None
    audit: AuditWriter
    baseline: bool
    plan: Plan
    managed: Callable[[PlannedProcess], ManagedProcess]
    _rings: list[RingOwner]
    _results: str
    _inode: int
    _stack: ExitStack

    def removed(self) -> str | None:
        """What another program has removed, such as a cleaner of temporary files; None: nothing."""
        for ring in self._rings:
            if ring.removed():
                return f"ring {FOLDER / ring.name}"
        if inode_of(self.folder) != self._inode:
            return f"runtime folder {self.folder}"
        bundle = self.state.bundle
        files = [bundle.path / name for name in (MANIFEST, *bundle.required_files)]
        endpoints = [f"ipc://{self.folder}/{name}" for name in ("hub", "results", CONTROL)]
        for process in self.processes:
            ready = process.lifecycle.state is ProcessState.READY
            if ready and isinstance(process.job, FeaturesJob):
                endpoints.append(process.job.bind)
        for endpoint in (*endpoints, self._results):
            if endpoint.startswith("ipc://"):
                files.append(Path(endpoint.removeprefix("ipc://")))
        return next((str(file) for file in files if inode_of(file) is None), None)

    def close(self) -> None:
        """Release everything, the newest first."""
        self._stack.close()


def check(config: Config, bundle: Bundle, running: Config | None = None) -> None:
    """Raises UserError where the pipeline cannot run with a configuration.

    Args:
        running: configuration of the pipeline that runs: its rings and its port are its own.
    """
    if config.ring.seconds < (least := 2.0 * bundle.spec.window_s + 2.0):
        raise UserError(f"ring.seconds = {config.ring.seconds:g} must be at least {least:g}")
    if running is None:
        check_ring_memory(config, bundle)
        if any(stream.source.startswith("stdin:") for stream in config.stream):
            check_standard_input()
    if config.record is not None:
        _check_writable(config.record)
    check_alerts(config, bundle)
    check_nats(config)
    if config.review.file is not None and config.dashboard.listen is None:
        raise UserError("review.file keeps sound for the live page: start with --dashboard")
    if config.dashboard.listen is not None:
        if importlib.util.find_spec("uvicorn") is None:
            raise UserError(f"the live page {needs_extra('dashboard')}")
        if running is None or running.dashboard.listen != config.dashboard.listen:
            listen_tcp(config.dashboard.listen).close()
        _check_page_files(config.dashboard)


def _check_page_files(page: DashboardConfig) -> None:
    load_api_keys(page.api_keys or default_key_file())
    if page.certificate is not None and page.private_key is not None:
        Certificate(page.certificate, page.private_key)


def check_alerts(config: Config, bundle: Bundle) -> None:
    """Raises UserError where a rule cannot raise an alert, or its alerts cannot be sent."""
    for number, row in enumerate(config.alerts):
        if row.label is not None and row.label not in bundle.labels:
            raise ConfigError(
                f"the alert {row.name!r} needs a label {row.label!r}; the bundle has: "
                f"{', '.join(bundle.labels)}",
                f"alerts.{number}.label",
            )
        known = (LEVEL, *bundle.dimensions)
        if row.dimension is not None and row.dimension not in known:
            raise ConfigError(
                f"the alert {row.name!r} needs the dimension {row.dimension!r}; with this bundle "
                f"there is {', '.join(known)}",
                f"alerts.{number}.dimension",
            )
        kinds = {parse_address(address).kind for address in row.to}
        if "mqtt" in kinds and importlib.util.find_spec("paho") is None:
            raise ConfigError(
                f"the alert {row.name!r} {needs_extra('mqtt')}", f"alerts.{number}.to"
            )


def check_nats(config: Config) -> None:
    """Raises UserError where a package or a file for a server of NATS is missing."""
    nats = config.nats
    if nats.url is None:
        return
    needed = ("nats", "nkeys") if nats.seed or nats.credentials else ("nats",)
    if any(importlib.util.find_spec(name) is None for name in needed):
        raise UserError(f"[nats] {needs_extra('fleet')}")
    for path in (nats.seed, nats.credentials, nats.ca, nats.certificate, nats.private_key):
        if path is not None and not os.access(path, os.R_OK):
            raise UserError(f"[nats]: {path} cannot be read")


def check_ring_memory(config: Config, bundle: Bundle) -> None:
    """Raises UserError where the rings of all streams together do not fit into shared memory."""
    samples = round(config.ring.seconds * bundle.spec.sample_rate)
    needed = len(config.stream) * (HEADER_BYTES + SAMPLE_BYTES * samples)
    with contextlib.suppress(OSError):  # `create_ring` reports a missing file system
        space = os.statvfs(FOLDER)
        free = space.f_bavail * space.f_frsize
        if free < needed and space.f_blocks:  # a tmpfs without a limit has no blocks
            mib = 2**20
            raise UserError(
                f"rings of {config.ring.seconds:g} s (streams: {len(config.stream)}) need "
                f"{needed / mib:.1f} MiB in {FOLDER}, {free / mib:.1f} MiB are free; "
                "set a shorter ring.seconds or make shared memory larger"
            )


def inode_of(path: Path) -> int | None:
    """The inode of a file; None where it does not exist. Other errors raise OSError."""
    try:
        return path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None


def build(
    config: Config,
    bundle: Bundle,
    profiles: Mapping[str, str],
    *,
    source: ConfigSource,
    write: Callable[[str], None],
    wake: Callable[[], None],
) -> Resources:
    """Create everything that the pipeline owns.

    Args:
        profiles: stage → file for the cProfile data of its processes.
        source: where the configuration comes from.
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
        names = {stream: ring.name for stream, ring in rings.items()}
        state = PipelineState(bundle, runs, remote_infer=config.infer_host.wanted is not None)
        register = stack.enter_context(MuteRegister(folder / MUTE, create=True))
        audit = open_audit(config.audit)
        stack.callback(audit.close)

        def muted(mute: Mute | None) -> None:
            state.muted(mute)
            audit.note("muted" if mute else "listening", **(to_json_map(mute) if mute else {}))

        mute = MuteControl(config.mute, register, muted)
        light = make_light(config.light, wake)
        if light is not None:
            stack.callback(light.close)
        hub = _hub(config, state, f"ipc://{folder}/hub", inner := f"ipc://{folder}/results")
        hub.stage_changed = wake
        hub.watch_keys(functools.partial(note_key, audit))
        stack.callback(hub.stop)
        # The pipeline's own processes need neither keys nor a port.
        inside = config.model_copy(update={"results": inner})
        plan = Plan(
            inside,
            bundle,
            names,
            f"ipc://{folder}/hub",
            folder,
            stdin=_user_stdin(config),
            stdin_format=_stdin_format(config, stack),
            mute_register=folder / MUTE,
            spooled=_spooled(config, stack),
            source=source,
        )

        def managed(planned: PlannedProcess) -> ManagedProcess:
            return ManagedProcess(
                planned,
                time.monotonic(),
                arguments=_arguments(planned, profiles),
                inherit=_inherit(planned),
                write=write,
                wake=wake,
            )

        processes = [managed(planned) for planned in planned_processes(plan)]
        state.processes = processes
        hub.expect([*state.heartbeat_names(), ALERTS], runs)  # the first rule may come later
        _serve_metrics(config, state, hub, stack)
    except BaseException:
        stack.close()
        raise
    inode = folder.stat().st_ino
    owners = list(rings.values())
    return Resources(
        *(folder, state, hub, control, processes, mute, light, audit),
        config.baseline == "stream",
        plan,
        managed,
        *(owners, config.results, inode, stack),
    )


def _rings(
    config: Config, bundle: Bundle, runs: Mapping[str, str], stack: ExitStack
) -> dict[str, RingOwner]:
    """Create the rings, by stream."""
    rate = bundle.spec.sample_rate
    capacity = round(config.ring.seconds * rate)
    return {
        stream: stack.enter_context(
            create_ring(stream, sample_rate=rate, capacity=capacity, run=run)
        )
        for stream, run in runs.items()
    }


def _serve_metrics(config: Config, state: PipelineState, hub: Hub, stack: ExitStack) -> None:
    if config.metrics.port is not None:
        from speech_emotion.supervision.metrics.server import MetricsServer

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
        baseline=config.baseline == "stream",
        inner=inner,
        remote=(host.hub, host.lock) if host else None,
        lock=config.curve.lock,
        unprotected=config.curve.unprotected,
    )


def _user_stdin(config: Config) -> int:
    """Descriptor of the user's standard input for capture, whose own carries its job; else 0."""
    return os.dup(0) if any(s.source.startswith("stdin:") for s in config.stream) else 0


def _stdin_format(config: Config, stack: ExitStack) -> int | None:
    """Descriptor of a file in memory that keeps the format of standard input over restarts."""
    if not any(stream.source.startswith("stdin:") for stream in config.stream):
        return None
    descriptor = os.memfd_create("stdin format")
    stack.callback(os.close, descriptor)
    return descriptor


def _spooled(config: Config, stack: ExitStack) -> dict[str, int]:
    """Read the pipes that `file:` sources name to their ends: source → descriptor."""
    descriptors = {}
    for source in {stream.source for stream in config.stream}:
        kind, _, path = source.partition(":")
        if kind == "file" and is_pipe(path):
            descriptors[source] = spool(path)
            stack.callback(os.close, descriptors[source])
    return descriptors


def _check_writable(folder: Path) -> None:
    """Create the folder of the recordings. A full disk is no mistake of the user."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def _inherit(planned: PlannedProcess) -> tuple[int, ...]:
    """Descriptors that the job names: standard input, its format, the contents of pipes."""
    job = planned.job
    if not isinstance(job, CaptureJob):
        return ()
    descriptors = [stream.spooled for stream in job.streams]
    if job.streams[0].source.startswith("stdin:"):
        descriptors += [job.options.stdin, job.options.stdin_format]
    return tuple({descriptor for descriptor in descriptors if descriptor is not None})


def _arguments(planned: PlannedProcess, profiles: Mapping[str, str]) -> tuple[str, ...]:
    file = profiles.get(planned.kind.name)
    return () if file is None else ("--profile", file)
