#!/usr/bin/env python3
"""The pipeline: rings, results hub and the processes capture, features and infer.

`python supervisor.py` starts them, watches them, restarts them and says how they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import logging
import os
import queue
import secrets
import shutil
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.bundle import Bundle, load_bundle
from common.child import Child
from common.config import DEFAULT_STREAM, MAX_STREAMS, Config, StreamConfig, load_config, to_toml
from common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from common.health import pipeline_health, stage_health, stream_info
from common.hub import Hub
from common.messages import Health
from common.punctual import ask_for_short_slices
from common.ring import create_ring, reclaim_segments
from common.runtime import own_folder, reclaim_folders
from common.stage import LOG_FORMAT, Parser
from common.supervision import Action, Policy, State, Supervision
from common.terminal import View, make_view

log = logging.getLogger("supervisor")

TURN_S = 0.25
"""So often it looks after the stages where nothing wakes it: no line, no death, no new state."""
SHOW_S = 0.1
DRAIN_S = 6.0
"""So long may capture take to see its last results accepted before it is killed."""
END_S = 3.0
"""So long may features and infer take to end before they are killed."""
QUIET_START_S = 10.0
"""Log lines wait for a good start, so that a user's mistake is the only line; but not longer."""
FILES = ("file", "replay")
"""Kinds of sources that come to an end by themselves."""
MODULES = {"record": "capture.taping"}
"""Modules of the stages that are not called like theirs."""
STAGES = ("capture", "features", "infer")


@dataclasses.dataclass
class Stage:
    """A row of the process table: what runs, with what job, and how it is."""

    name: str
    module: str
    arguments: list[str]
    job: dict[str, Any]
    supervision: Supervision
    inherit: tuple[int, ...] = ()
    child: Child | None = None


class Pipeline:
    """Everything that runs, from start to end. Use from the main thread."""

    def __init__(self, config: Config, bundle: Bundle, profiles: dict[str, str]) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._held: list[str] | None = []
        self._began = time.monotonic()
        self._show_due = 0.0
        self._stops = 0
        self._failed: Stage | None = None
        self._resources = ExitStack()
        self._log_to_queue()
        with ExitStack() as undo:
            undo.push(self._resources)
            folder = own_folder()
            self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
            rings = self._create_rings(config, bundle)
            stages = f"ipc://{folder}/hub"
            self.hub = Hub(
                config.results,
                stages,
                info=lambda opened: stream_info(opened, bundle),
                health=lambda _: self.health(),
            )
            self.hub.stage_changed = self._woken.set
            self._resources.callback(self.hub.stop)
            self.stages = _table(config, bundle, rings, hub=stages, folder=str(folder))
            undo.pop_all()
        for stage in self.stages:
            if stage.module in profiles:
                stage.arguments += ["--profile", profiles[stage.module]]

    def _create_rings(self, config: Config, bundle: Bundle) -> dict[str, str]:
        run = secrets.token_hex(8)
        rings = {}
        for stream in config.stream:
            ring = create_ring(
                stream.name,
                sample_rate=bundle.spec.sample_rate,
                capacity=round(config.ring.seconds * bundle.spec.sample_rate),
                run=run,
            )
            rings[stream.name] = self._resources.enter_context(ring).name
        return rings

    # The life of the whole --------------------------------------------------------------

    def run(self) -> int:
        """Run until the sources end, a signal comes, or a stage cannot be kept alive."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._stop)
        self.hub.start()
        try:
            with make_view() as view:
                while not self._over():
                    self._turn(view)
                    self._pause(view)
                self._end(view, self._captures(), DRAIN_S)
                self._end(view, [s for s in self.stages if s.module != "capture"], END_S)
                return self._verdict(view)
        finally:
            for stage in self.stages:
                if stage.child is not None:
                    stage.child.kill()
            self._resources.close()

    def health(self) -> Health:
        """How all is; also called by the hub's thread."""
        rows = []
        for stage in self.stages:
            supervision, child = stage.supervision, stage.child
            rows.append(
                stage_health(
                    stage.name,
                    self.hub.beats.get(stage.name),
                    state=supervision.state.value,
                    pid=child.pid if child else 0,
                    restarts=supervision.restarts,
                    reason=supervision.reason,
                )
            )
        return pipeline_health(self.hub, rows)

    def _captures(self) -> list[Stage]:
        return [stage for stage in self.stages if stage.module == "capture"]

    def _over(self) -> bool:
        ended = all(stage.supervision.over for stage in self._captures())
        return ended or bool(self._stops or self._failed or self.hub.failure)

    def _end(self, view: View, stages: list[Stage], limit: float) -> None:
        """Tell stages to end, and see to it."""
        for stage in stages:
            stage.supervision.stop()
            if stage.child is not None:
                stage.child.terminate()
        deadline = time.monotonic() + limit
        impatient = self._stops
        while any(stage.child is not None for stage in stages):
            # Where nothing has begun there is nothing to end in order.
            vain = self._failed is not None and self._held is not None
            if time.monotonic() > deadline or vain or self._stops > impatient + 1:
                for stage in stages:
                    if stage.child is not None:
                        stage.child.kill()
            self._turn(view)
            self._pause(view)

    def _pause(self, view: View) -> None:
        self._woken.wait(SHOW_S if view.live else TURN_S)
        self._woken.clear()

    def _verdict(self, view: View) -> int:
        failed = self._failed
        mistake = failed is not None and failed.supervision.exit_code == EXIT_USER
        if mistake and failed is not None and self._held is not None:
            # Nothing has begun, so nothing else is of use.
            view.write(failed.supervision.reason or f"{failed.name}: exit code {EXIT_USER}")
            return EXIT_USER
        self._release(view)
        view.show(self.hub.take_news(), self.health())
        if mistake:
            return EXIT_USER
        if failed is not None:
            log.error("%s cannot be kept alive: %s", failed.name, failed.supervision.reason)
        if self.hub.failure is not None:
            log.error("the results hub failed: %r", self.hub.failure)
        self._release(view)
        return EXIT_FAULT if failed is not None or self.hub.failure is not None else EXIT_OK

    def _stop(self, _signum: int, _frame: object) -> None:
        self._stops += 1
        self._woken.set()

    # One turn ---------------------------------------------------------------------------

    def _turn(self, view: View) -> None:
        now = time.monotonic()
        before = [stage.supervision.state for stage in self.stages]
        for stage in self.stages:
            self._look_after(stage, now)
        after = [stage.supervision.state for stage in self.stages]
        if before != after:
            self.hub.health_changed()
        started = all(state in (State.READY, State.DONE) for state in after)
        if started or now - self._began > QUIET_START_S:
            self._release(view)
        if self._held is None and now >= self._show_due:
            self._show_due = now + SHOW_S
            news = list(self.hub.take_news())
            if news or view.live:
                view.show(news, self.health())

    def _look_after(self, stage: Stage, now: float) -> None:
        supervision, child = stage.supervision, stage.child
        if child is not None and (code := child.exit_code()) is not None:
            stage.child = None
            self._woken.set()  # it may have to be started again at once
            was = supervision.state
            supervision.exited(now, code, child.last_words())
            if supervision.state is State.WAITING:
                log.warning("%s died while %s: %s", stage.name, was.value, supervision.reason)
            elif supervision.state is State.FAILED:
                self._failed = stage
            return
        beat = self.hub.beats.get(stage.name)
        if child is not None and beat is not None and beat.heartbeat.pid == child.pid:
            if supervision.state is State.STARTING and supervision.restarts:
                log.info("%s is back", stage.name)
            supervision.beat(beat.received, ready=beat.heartbeat.state == "ready")
        match supervision.act(now):
            case Action.START:
                supervision.started(now)
                stage.child = Child(
                    stage.module,
                    stage.arguments,
                    stage.job,
                    self._line,
                    stage.inherit,
                    self._woken.set,
                )
            case Action.KILL:
                assert child is not None
                log.warning("%s hangs: %s", stage.name, supervision.reason)
                child.kill()

    # Lines ------------------------------------------------------------------------------

    def _line(self, line: str) -> None:
        self._lines.put(line)
        self._woken.set()

    def _log_to_queue(self) -> None:
        handler = logging.StreamHandler(_QueueStream(self._lines))
        handler.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)

    def _release(self, view: View) -> None:
        """Hand held and new lines to the view."""
        lines, self._held = self._held or [], None
        while not self._lines.empty():
            lines.append(self._lines.get())
        for line in lines:
            view.write(line)


class _QueueStream:
    def __init__(self, lines: queue.SimpleQueue[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> None:
        if line := text.rstrip("\n"):
            self._lines.put(line)

    def flush(self) -> None:
        pass


def _table(
    config: Config, bundle: Bundle, rings: dict[str, str], *, hub: str, folder: str
) -> list[Stage]:
    """The process table."""
    now = time.monotonic()
    common = {"supervisor_pid": os.getpid(), "hub": hub}
    features = _workers("features", config.workers.features, rings)
    infers = _workers("infer", config.workers.infer, rings)
    endpoints = {
        stream: f"ipc://{folder}/{name.replace('/', '.')}"
        for name, streams in features.items()
        for stream in streams
    }
    path = str(config.bundle)
    # Only files come to an end; then nobody waits for a stage that dies again and again.
    only_files = all(stream.source.startswith(FILES) for stream in config.stream)
    policy = Policy(quick_limit=10 if only_files else None, ends=False)
    rows: list[tuple[str, dict[str, Any], Policy, tuple[int, ...]]] = [
        (name, {"bundle": path, "bind": endpoints[streams[0]]}, policy, ())
        for name, streams in features.items()
    ]
    for name, streams in infers.items():
        theirs = {stream: endpoints[stream] for stream in streams}
        job = {"bundle": path, "runtime": config.runtime, "features": theirs}
        rows.append((name, job, policy, ()))
    if config.record is not None:
        tape = {
            "folder": str(config.record),
            "results": config.results,
            "streams": [{"name": name, "ring": ring} for name, ring in rings.items()],
        }
        rows.append(("record", tape, policy, ()))
    patient = dataclasses.replace(policy, delay_limit=2.0, ends=True)
    for name, sources in _captures(config).items():
        # A child's own standard input carries its job.
        pipe = (os.dup(0),) if sources[0].source.startswith("stdin:") else ()
        job = _capture_job(config, bundle, rings, endpoints, sources, pipe)
        rows.append((name, job, patient, pipe))
    return [
        Stage(
            name=name,
            module=MODULES.get(name, name.partition("/")[0]),
            arguments=[],
            job={**common, **job, "stage": name},
            supervision=Supervision(policy, now),
            inherit=inherit,
        )
        for name, job, policy, inherit in rows
    ]


def _workers(stage: str, count: int, rings: dict[str, str]) -> dict[str, list[str]]:
    """The workers of a stage by name, and the streams of each: by turns, for good."""
    streams = list(rings)
    count = min(count, len(streams))
    if count == 1:
        return {stage: streams}
    return {f"{stage}/{slot}": streams[slot::count] for slot in range(count)}


def _captures(config: Config) -> dict[str, list[StreamConfig]]:
    """Capture processes by name: one for all files, one for each device."""
    groups: dict[str, list[StreamConfig]] = {}
    for stream in config.stream:
        kind = stream.source.partition(":")[0]
        groups.setdefault("file" if kind in FILES else stream.source, []).append(stream)
    if len(groups) == 1:
        return {"capture": next(iter(groups.values()))}
    return {f"capture/{streams[0].name}": streams for streams in groups.values()}


def _capture_job(
    config: Config,
    bundle: Bundle,
    rings: dict[str, str],
    features: dict[str, str],
    streams: list[StreamConfig],
    pipe: tuple[int, ...],
) -> dict[str, Any]:
    return {
        "features": features[streams[0].name],
        "streams": [
            {
                "name": stream.name,
                "source": stream.source,
                "ring": rings[stream.name],
                "channel": stream.channel,
                "features": features[stream.name],
            }
            for stream in streams
        ],
        "rate": bundle.spec.sample_rate,
        "window": bundle.spec.window,
        "hop": bundle.spec.hop,
        "opening": {
            "realtime": config.speed == "realtime",
            "stdin": pipe[0] if pipe else 0,
            **config.capture.model_dump(),
        },
    }


def parser() -> argparse.ArgumentParser:
    flags = Parser(prog="python supervisor.py", description=__doc__)
    flags.add_argument("--config", type=Path, metavar="FILE", help="TOML file; see docs")
    flags.add_argument(
        "--source",
        action="append",
        metavar="SOURCE",
        help="mic (default), mic:NAME, file:PATH, stdin:RATE[:CHANNELS], replay:FOLDER",
    )
    flags.add_argument(
        "--streams", type=int, metavar="N", help="so many streams of the one source, as a load"
    )
    flags.add_argument("--bundle", metavar="DIR", help="model bundle; default: models/default")
    flags.add_argument("--results", metavar="ENDPOINT", help="default: tcp://127.0.0.1:5555")
    flags.add_argument("--speed", choices=("realtime", "max"), help="pace of file sources")
    flags.add_argument("--record", metavar="FOLDER", help="write sound and messages there")
    flags.add_argument("--runtime", choices=("auto", "litert", "tflite"), help="TFLite runtime")
    flags.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="STAGE=OUT",
        help=f"write a cProfile file of a stage ({', '.join(STAGES)}) at its end",
    )
    flags.add_argument("--print-config", action="store_true", help="show what is effective, end")
    return flags


def configure(arguments: argparse.Namespace) -> Config:
    """The configuration with the command line over it.

    Raises:
        UserError: a mistake in either.
    """
    flags = {
        key: value
        for key in ("bundle", "results", "speed", "runtime", "record")
        if (value := getattr(arguments, key)) is not None
    }
    sources = arguments.source or []
    if arguments.streams is not None:
        if len(sources) != 1 or not sources[0].startswith(FILES):
            raise UserError("--streams needs one --source file:PATH or replay:FOLDER")
        if not 1 <= arguments.streams <= MAX_STREAMS:
            raise UserError(f"--streams {arguments.streams} must be 1 to {MAX_STREAMS}")
        sources = sources * arguments.streams
    if sources:
        flags["stream"] = [
            {"name": DEFAULT_STREAM + (f"-{n}" if n > 1 else ""), "source": source}
            for n, source in enumerate(sources, 1)
        ]
    return load_config(arguments.config, flags)


def profiles_of(pairs: list[str]) -> dict[str, str]:
    """STAGE=OUT pairs as a table.

    Raises:
        UserError: no such stage, or no file.
    """
    table = {}
    for pair in pairs:
        stage, _, out = pair.partition("=")
        if stage not in STAGES or not out:
            raise UserError(f"--profile {pair!r} must be STAGE=OUT; stages: {', '.join(STAGES)}")
        table[stage] = out
    return table


def main() -> int:
    arguments = parser().parse_args()
    config = configure(arguments)
    profiles = profiles_of(arguments.profile)
    if arguments.print_config:
        print(to_toml(config), end="")
        return EXIT_OK
    bundle = load_bundle(config.bundle)
    if config.ring.seconds < (least := 2.0 * bundle.spec.window_s + 2.0):
        raise UserError(f"ring.seconds = {config.ring.seconds:g} must be at least {least:g}")
    for gone in (*reclaim_segments(), *reclaim_folders()):
        log.info("removed %s, left by a process that is gone", gone)
    return Pipeline(config, bundle, profiles).run()


if __name__ == "__main__":
    faulthandler.enable()
    ask_for_short_slices()  # its threads and stages take theirs from this one
    try:
        code = main()
    except UserError as error:
        print(f"supervisor: {error}", file=sys.stderr)
        code = EXIT_USER
    sys.exit(code)
