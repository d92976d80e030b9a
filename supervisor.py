#!/usr/bin/env python3
"""Run the pipeline: sound in, emotion labels with calibrated confidence out.

Starts the processes capture, features and infer, observes them, restarts them after a failure and
publishes their state and the results.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
import faulthandler
import importlib
import logging
import sys
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.manifest import (
    load_bundle,
    warn_without_baseline,
    warn_without_operating_point,
)
from speech_emotion.common.bundle.parameters import OPERATING_POINTS, RUNTIMES
from speech_emotion.common.config.checks import SOURCES
from speech_emotion.common.config.load import load_config, to_toml, without_secrets
from speech_emotion.common.config.model import DEFAULT_STREAM, MAX_STREAMS, Config
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.linux.descriptors import raise_descriptor_limit
from speech_emotion.common.linux.entry import guarded
from speech_emotion.common.linux.process_identity import restrict_file_access
from speech_emotion.common.linux.runtime_dir import reclaim_runtime_dirs
from speech_emotion.common.linux.scheduling import request_short_time_slices
from speech_emotion.common.ring.segment import reclaim_segments
from speech_emotion.common.security.exposure import DEFAULT_LISTEN
from speech_emotion.common.stage.main import Parser, program
from speech_emotion.supervision.bundle_choice import bundle_to_use
from speech_emotion.supervision.console.log_lines import LogLines
from speech_emotion.supervision.console.view import leave
from speech_emotion.supervision.pipeline import Pipeline
from speech_emotion.supervision.privacy.audit_events import note_start
from speech_emotion.supervision.process_table import FILES, profiles_of
from speech_emotion.supervision.resources import build, check
from speech_emotion.supervision.signals import SignalRequests

log = logging.getLogger("supervisor")

COMMANDS = ("baseline", "doctor", "keygen", "swap")
"""`supervisor.py COMMAND …` runs the module of this name in `speech_emotion.commands`."""
EXAMPLES = """\
examples:
  {0} --dashboard                  the default microphone, with the live page
  {0} --source file:talk.flac      a sound file in real time
  {0} --config box.toml            a configuration file"""


def parser() -> argparse.ArgumentParser:
    flags = Parser(
        prog=(name := program("run", "python supervisor.py")),
        description=__doc__,
        epilog=EXAMPLES.format(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = flags.add_argument
    add("--source", action="append", metavar="SOURCE", help=f"{SOURCES}; may be repeated")
    usual = "compare with the stream's usual sound; default: stream, if the bundle can"
    prosody = "measure pitch, loudness, rate and pauses of each utterance; default: not"
    page = f"serve the live page; default: {DEFAULT_LISTEN}"
    add("--dashboard", nargs="?", const=DEFAULT_LISTEN, metavar="HOST:PORT", help=page)
    add("--config", type=Path, metavar="FILE", help="TOML file, see docs/CONFIGURATION.md")
    add("--history", metavar="FILE", help="write results to this SQLite file")
    add("--record", metavar="FOLDER", help="record sound and messages to this folder")
    add("--bundle", metavar="DIR", help="model bundle; default: models/default")
    add("--results", metavar="ENDPOINT", help="publish here; default: tcp://127.0.0.1:5555")
    add("--speed", choices=("realtime", "max"), help="pace of file sources; default: realtime")
    add("--runtime", choices=RUNTIMES, help="library that runs the model; default: auto")
    add("--sensitivity", choices=OPERATING_POINTS, help="fewer labels or more; default: medium")
    add("--baseline", metavar="off|stream", help=usual)
    add("--prosody", action=argparse.BooleanOptionalAction, default=None, help=prosody)
    add("--streams", type=int, metavar="N", help="read the one source as N streams")
    add("--profile", action="append", default=[], metavar="STAGE=OUT", help="write a cProfile file")
    config = "print the effective configuration and exit; all: with the secrets"
    add("--print-config", nargs="?", const="public", choices=("public", "all"), help=config)
    return flags


def configure(arguments: argparse.Namespace) -> Config:
    """The effective configuration: file, environment, command line; later wins.

    Raises:
        UserError: one of them has a mistake.
    """
    return load_config(arguments.config, flags_of(arguments))


def flags_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Key → value of the configuration that the command line sets.

    Raises:
        UserError: a flag has a mistake.
    """
    names = (
        "bundle",
        "results",
        "speed",
        "runtime",
        "sensitivity",
        "baseline",
        "prosody",
        "record",
    )
    flags: dict[str, Any] = {
        key: value for key in names if (value := getattr(arguments, key)) is not None
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
    return flags


def main() -> int:
    restrict_file_access()
    raise_descriptor_limit()
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        command = importlib.import_module(f"speech_emotion.commands.{sys.argv[1]}")
        return int(command.main(sys.argv[2:]))
    arguments = parser().parse_args()
    config = configure(arguments)
    profiles = profiles_of(arguments.profile)
    if arguments.print_config:
        whole = arguments.print_config == "all"
        print(to_toml(config if whole else without_secrets(config)), end="")
        return EXIT_OK
    bundle = load_bundle(bundle_to_use(config))
    check(config, bundle)
    if "baseline" in config.model_fields_set and config.baseline != "off":
        warn_without_baseline(bundle)
    warn_without_operating_point(bundle, config.sensitivity)
    signals = SignalRequests()
    lines = LogLines(wake := signals.wakeup.set)
    for owner in (*reclaim_segments(), *reclaim_runtime_dirs()):
        log.info("removed %s, its process has ended", owner)
    source = ConfigSource(arguments.config and arguments.config.absolute(), flags_of(arguments))
    resources = build(config, bundle, profiles, source=source, write=lines.write, wake=wake)
    note_start(resources.audit, config, bundle.id)

    def load(file: Path | None) -> Config:
        return load_config(file or source.file, source.flags)

    return Pipeline(resources, config, load, lines, signals).run()


if __name__ == "__main__":
    faulthandler.enable()
    request_short_time_slices()  # threads and stages inherit them
    leave(guarded("supervisor", main))
