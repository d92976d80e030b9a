#!/usr/bin/env python3
"""The pipeline: rings, results hub and the processes capture, features and infer.

`python supervisor.py` starts them, watches them, restarts them and says how they are.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import importlib
import importlib.util
import logging
import queue
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from speech_emotion.common.bundle.manifest import Bundle, copy_bundle, load_bundle
from speech_emotion.common.config.load import load_config, to_toml
from speech_emotion.common.config.model import DEFAULT_STREAM, MAX_STREAMS, Config, MetricsConfig
from speech_emotion.common.errors import EXIT_DEVICE, EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.hub.health import (
    pipeline_health,
    remote_health,
    stage_health,
    stream_info,
)
from speech_emotion.common.hub.hub import Hub
from speech_emotion.common.linux.process_identity import restrict_file_access
from speech_emotion.common.linux.runtime_dir import create_runtime_dir, reclaim_runtime_dirs
from speech_emotion.common.linux.scheduling import request_short_time_slices
from speech_emotion.common.ring.segment import create_ring, reclaim_segments
from speech_emotion.common.security.exposure import DEFAULT_LISTEN, listen_tcp
from speech_emotion.common.stage.main import LOG_FORMAT, Parser, program
from speech_emotion.common.wire.internal import Swapped
from speech_emotion.common.wire.public import Health
from speech_emotion.supervision.bundle_swap import (
    BUNDLE_STAGES,
    BundleSwap,
    check_grid,
    remove_bundle_copy,
    standby_name,
)
from speech_emotion.supervision.child import Child
from speech_emotion.supervision.console_view import BackgroundView, leave, make_view
from speech_emotion.supervision.control_socket import ControlSocket
from speech_emotion.supervision.process_table import (
    FILES,
    STAGES,
    START_BEFORE_CAPTURE,
    ManagedProcess,
    process_table,
    status_line,
)
from speech_emotion.supervision.restart_policy import Action, ProcessState
from speech_emotion.supervision.systemd import SystemdNotifier

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
KEEPERS_S = 5.0
"""Sound waits for those who keep what is said of it, but not longer."""
HUB_TURN_S = 3.0
"""A hub that takes no turn for so long is not well."""
EXCHANGE_TURN_S = 0.02
"""So often it turns while a bundle is exchanged: sound waits."""
COMMANDS = {
    "doctor": "speech_emotion.commands.doctor",
    "keygen": "speech_emotion.commands.keygen",
    "swap": "speech_emotion.commands.swap",
}
"""`supervisor.py WORD …` → the module whose `main` does it."""


class Pipeline:
    """Everything that runs, from start to end. Use from the main thread."""

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        profiles: dict[str, str],
        configured: Callable[[], Path],
    ) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._held: list[str] | None = []
        self._began = time.monotonic()
        self._show_due = 0.0
        self._stops = 0
        self._reloads = 0
        self._configured = configured
        self._exchange: BundleSwap | None = None
        self._asked: bytes | None = None
        self._copies = 0
        self._notifier = SystemdNotifier()
        self._infer_away = config.infer_host.wanted is not None
        self._failed: ManagedProcess | None = None
        self._runs: dict[str, str] = {}
        self._resources = ExitStack()
        self._log_to_queue()
        with ExitStack() as undo:
            undo.push(self._resources)
            folder = create_runtime_dir()
            self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
            self._originals = (str(folder / "bundle"), str(config.bundle))
            bundle = copy_bundle(bundle, folder / "bundle")
            self.bundle = self._before = bundle
            self._folder = folder
            self._control = ControlSocket(folder)
            self._resources.callback(self._control.close)
            rings = self._create_rings(config, bundle)
            stages, inner = f"ipc://{folder}/hub", f"ipc://{folder}/results"
            host = config.infer_host.wanted
            self.hub = Hub(
                config.results,
                stages,
                info=lambda opened: stream_info(opened, self.bundle),
                health=lambda _: self.health(),
                bundle=bundle.id,
                inner=inner,
                remote=(host.hub, host.lock) if host else None,
                lock=config.curve.lock,
                unprotected=config.curve.unprotected,
            )
            self.hub.stage_changed = self._woken.set
            self._resources.callback(self.hub.stop)
            # Our own need neither keys nor a port that may have been left open.
            config = config.model_copy(update={"results": inner})
            self.stages = process_table(config, bundle, rings, hub=stages, folder=str(folder))
            self._owners = {
                row["name"]: stage.name
                for stage in self._captures()
                for row in stage.job["streams"]
            }
            names = [stage.name for stage in self.stages] + ["infer"] * self._infer_away
            names += [standby_name(stage.name) for stage in self._exchanged()]
            self.hub.expect(names, self._runs)
            self._serve_metrics(config.metrics)
            undo.pop_all()
        for stage in self.stages:
            if stage.module in profiles:
                stage.arguments += ["--profile", profiles[stage.module]]

    def _serve_metrics(self, metrics: MetricsConfig) -> None:
        if metrics.port is not None:
            from speech_emotion.supervision.prometheus import MetricsServer

            server = MetricsServer(metrics.address, metrics.port, self.health)
            self._resources.callback(server.close)

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
            self._runs[stream.name] = run
        return rings

    # The life of the whole --------------------------------------------------------------

    def run(self) -> int:
        """Run until the sources end, a signal comes, or a stage cannot be kept alive."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._stop)
        if not sys.stderr.isatty():  # a terminal that is closed says HUP as well
            signal.signal(signal.SIGHUP, self._reload)
        self.hub.start()
        try:
            with make_view() as view:
                while not self._over():
                    self._turn(view)
                    self._pause(view)
                self._notifier.stopping()
                self._end_exchange()
                self._end(view, self._captures(), DRAIN_S)
                self._end(view, [s for s in self.stages if s.module != "capture"], END_S)
                return self._verdict(view)
        finally:
            self._end_exchange()
            for stage in self.stages:
                if stage.child is not None:
                    stage.child.kill()
            self._resources.close()

    def health(self) -> Health:
        """How all is; also called by the hub's thread."""
        snapshot = self.hub.snapshot()
        rows = []
        for stage in self.stages:
            supervision, child = stage.supervision, stage.child
            rows.append(
                stage_health(
                    stage.name,
                    snapshot.heartbeats.get(stage.name),
                    state=supervision.state.value,
                    pid=child.pid if child else 0,
                    restarts=supervision.restarts,
                    reason=supervision.reason,
                )
            )
        if self._infer_away:
            rows.append(remote_health("infer", snapshot.heartbeats.get("infer")))
        expected = {name: (run, self._owners[name]) for name, run in self._runs.items()}
        return pipeline_health(snapshot, rows, expected)

    def _captures(self) -> list[ManagedProcess]:
        return [stage for stage in self.stages if stage.module == "capture"]

    def _exchanged(self) -> list[ManagedProcess]:
        """The stages that work with a bundle."""
        return [stage for stage in self.stages if stage.module in BUNDLE_STAGES]

    def _over(self) -> bool:
        if self._exchange is not None and self._exchange.between:
            return False  # who is to bring it to an end in order is just coming
        ended = all(stage.supervision.over for stage in self._captures())
        return ended or bool(self._stops or self._failed or self.hub.failure)

    def _end(self, view: BackgroundView, stages: list[ManagedProcess], limit: float) -> None:
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

    def _pause(self, view: BackgroundView) -> None:
        if self._exchange is not None:
            self._woken.wait(EXCHANGE_TURN_S)
        else:
            self._woken.wait(SHOW_S if view.live else TURN_S)
        self._woken.clear()

    def _verdict(self, view: BackgroundView) -> int:
        failed = self._failed
        mistake = failed is not None and failed.supervision.exit_code == EXIT_USER
        if not mistake or self._held is None:  # else nothing has begun, and nothing is of use
            self._release(view)
            view.show(self.hub.drain_results(), self.health())
            view.settle()
        if failed is not None and mistake:
            view.write(failed.supervision.reason or f"{failed.name}: exit code {EXIT_USER}")
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

    def _reload(self, _signum: int, _frame: object) -> None:
        self._reloads += 1
        self._woken.set()

    # Another bundle ---------------------------------------------------------------------

    def _requests(self) -> None:
        """Whoever asks for another bundle, over the control socket or by SIGHUP."""
        for identity, request in self._control.requests():
            if (
                refusal := self._begin_exchange(functools.partial(Path, request.bundle))
            ) is not None:
                self._control.answer(identity, refusal)
            else:
                self._asked = identity
        if self._reloads and self._exchange is None:
            self._reloads = 0
            if (refusal := self._begin_exchange(self._configured)) is not None:
                log.log(logging.ERROR if refusal.code else logging.INFO, "%s", refusal.text)

    def _begin_exchange(self, find: Callable[[], Path]) -> Swapped | None:
        """Begin it, or say why not."""
        if self._exchange is not None or self._over():
            return Swapped(EXIT_FAULT, "busy with another bundle, or with ending; try again")
        self._copies += 1
        copy = self._folder / f"bundle.{self._copies}"
        try:
            path = find()
            bundle = load_bundle(path)
            if bundle.id == self.bundle.id:
                return Swapped(EXIT_OK, f"{bundle.id} is at work already")
            check_grid(self.bundle, bundle)
            bundle = copy_bundle(bundle, copy)
        except UserError as error:
            shutil.rmtree(copy, ignore_errors=True)
            return Swapped(EXIT_USER, str(error))
        self._originals = (str(copy), str(path))
        self._exchange = BundleSwap(
            self._exchanged(), self.bundle, bundle, self.hub, self._use, self._line
        )
        return None

    def _end_exchange(self) -> None:
        """The pipeline ends: let it be as it is."""
        if self._exchange is not None and not self._exchange.on_trial:
            self._exchange.cancel()
        if self._asked is not None:
            self._control.answer(self._asked, Swapped(EXIT_FAULT, "the pipeline has ended"))
        self._exchange = self._asked = None

    def _use(self, bundle: Bundle) -> None:
        keep_gate = bundle.spec.gate == self.bundle.spec.gate
        self.bundle = bundle
        self.hub.use(bundle.id, keep_gate=keep_gate)

    def _advance_exchange(self, now: float) -> None:
        exchange = self._exchange
        if exchange is None or (outcome := exchange.turn(now)) is None:
            return
        self._exchange = None
        outcome = Swapped(outcome.code, outcome.text.replace(*self._originals))
        log.log(logging.ERROR if outcome.code else logging.INFO, "%s", outcome.text)
        if outcome.code == EXIT_OK:
            # The old one stays: an utterance that began under it may not be out yet.
            if self._before is not exchange.old:
                remove_bundle_copy(self._before, self._folder)
            self._before = exchange.old
        else:
            remove_bundle_copy(exchange.new, self._folder)
        if self._asked is not None:
            self._control.answer(self._asked, outcome)
            self._asked = None
        self.hub.health_changed()

    # One turn ---------------------------------------------------------------------------

    def _turn(self, view: BackgroundView) -> None:
        now = time.monotonic()
        before = [stage.supervision.state for stage in self.stages]
        self._requests()
        self._advance_exchange(now)
        for stage in self.stages:
            if self._exchange is None or not self._exchange.holds(stage):
                self._look_after(stage, now)
        after = [stage.supervision.state for stage in self.stages]
        if before != after:
            self.hub.health_changed()
        started = all(state in (ProcessState.READY, ProcessState.DONE) for state in after)
        if started or now - self._began > QUIET_START_S:
            self._release(view)
        if self._held is None and now >= self._show_due:
            self._show_due = now + SHOW_S
            news = list(self.hub.drain_results())
            if news or view.live:
                view.show(news, self.health())
        self._notify(now)

    def _notify(self, now: float) -> None:
        """What the service manager hears; a device that is waited for holds nothing up."""
        self._notifier.turn(
            now,
            ready=all(
                stage.supervision.state in (ProcessState.READY, ProcessState.DONE)
                or stage.supervision.exit_code == EXIT_DEVICE
                for stage in self.stages
            ),
            well=self.hub.failure is None and now - self.hub.turned < HUB_TURN_S,
            status=status_line(self.stages),
        )

    def _look_after(self, stage: ManagedProcess, now: float) -> None:
        supervision, child = stage.supervision, stage.child
        if child is not None and (code := child.exit_code()) is not None:
            stage.child = None
            self._woken.set()  # it may have to be started again at once
            was = supervision.state
            words = child.last_words()
            supervision.exited(now, code, words and words.replace(*self._originals))
            if supervision.state is ProcessState.WAITING:
                self._tell_death(stage, was)
            elif supervision.state is ProcessState.FAILED:
                self._failed = stage
            return
        beat = self.hub.snapshot().heartbeats.get(stage.name)
        if child is not None and beat is not None and beat.heartbeat.pid == child.pid:
            if supervision.state is ProcessState.STARTING and supervision.restarts:
                log.info("%s is back", stage.name)
            supervision.beat(beat.received, ready=beat.heartbeat.state == "ready")
        match supervision.act(now):
            case Action.START if stage.module == "capture" and self._too_early(now):
                pass
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

    def _too_early(self, now: float) -> bool:
        """Whether somebody is about to be there who shall hear everything from the start."""
        if now - self._began > KEEPERS_S:
            return False
        keepers = [s.supervision for s in self.stages if s.name in START_BEFORE_CAPTURE]
        return any(k.state is not ProcessState.READY and not k.restarts for k in keepers)

    def _tell_death(self, stage: ManagedProcess, was: ProcessState) -> None:
        # A microphone may be away for weeks: the same words again are told ever more rarely.
        reason = stage.supervision.reason
        stage.repeats = stage.repeats + 1 if reason == stage.told else 1
        stage.told = reason
        if stage.repeats & (stage.repeats - 1) == 0:
            again = f" ({stage.repeats} times)" if stage.repeats > 1 else ""
            log.warning("%s died while %s: %s%s", stage.name, was.value, reason, again)

    # Lines ------------------------------------------------------------------------------

    def _line(self, line: str) -> None:
        self._lines.put(line)
        self._woken.set()

    def _log_to_queue(self) -> None:
        handler = logging.StreamHandler(_QueueStream(self._lines))
        handler.setFormatter(logging.Formatter(LOG_FORMAT, "%H:%M:%S"))
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)

    def _release(self, view: BackgroundView) -> None:
        """Hand held and new lines to the view."""
        lines, self._held = self._held or [], None
        while not self._lines.empty():
            lines.append(self._lines.get())
        for line in lines:
            view.write(line)
        if view.dropped:
            self.hub.set_counter("supervisor_lines_dropped", view.dropped)


class _QueueStream:
    def __init__(self, lines: queue.SimpleQueue[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> None:
        if line := text.rstrip("\n"):
            self._lines.put(line)

    def flush(self) -> None:
        pass


def parser() -> argparse.ArgumentParser:
    flags = Parser(
        prog=program("run", "python supervisor.py"),
        description=__doc__,
        epilog=f"Commands, each with --help: {', '.join(COMMANDS)}",
    )
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
    flags.add_argument(
        "--dashboard",
        nargs="?",
        const=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help=f"serve the live page; default: {DEFAULT_LISTEN}",
    )
    flags.add_argument("--history", metavar="FILE", help="keep results in this SQLite file")
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
    if arguments.dashboard is not None:
        flags["dashboard"] = {"listen": arguments.dashboard}
    if arguments.history is not None:
        flags["history"] = {"file": arguments.history}
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
    restrict_file_access()
    if module := COMMANDS.get("".join(sys.argv[1:2])):
        return int(importlib.import_module(module).main(sys.argv[2:]))
    arguments = parser().parse_args()
    config = configure(arguments)
    profiles = profiles_of(arguments.profile)
    if arguments.print_config:
        print(to_toml(config), end="")
        return EXIT_OK
    bundle = load_bundle(config.bundle)
    if config.ring.seconds < (least := 2.0 * bundle.spec.window_s + 2.0):
        raise UserError(f"ring.seconds = {config.ring.seconds:g} must be at least {least:g}")
    if config.dashboard.listen is not None:
        if importlib.util.find_spec("uvicorn") is None:
            raise UserError("the live page needs more packages: pip install -e '.[dashboard]'")
        listen_tcp(config.dashboard.listen).close()
    for gone in (*reclaim_segments(), *reclaim_runtime_dirs()):
        log.info("removed %s, left by a process that is gone", gone)
    return Pipeline(config, bundle, profiles, lambda: configure(arguments).bundle).run()


if __name__ == "__main__":
    faulthandler.enable()
    request_short_time_slices()  # its threads and stages take theirs from this one
    try:
        code = main()
    except UserError as error:
        print(f"supervisor: {error}", file=sys.stderr)
        code = EXIT_USER
    leave(code)
