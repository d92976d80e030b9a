"""`python -m infer`: features to emotions, of a file or as a stage of the pipeline."""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
from pathlib import Path

from speech_emotion.common.bundle.parameters import OPERATING_POINTS, RUNTIMES
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.stage.jobs import InferJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job

DESCRIPTION = """\
With one PATH: prints the results of every window of a recording and its utterances.
With --out: analyses files, folders and lists of them, and writes a table (docs/ARCHIVE.md).
Without: the infer stage of a pipeline; started by hand it also serves the results endpoint."""


BATCH = ("manifest", "jobs", "resume", "shard", "cluster")
"""Flags that need --out."""


def parser() -> argparse.ArgumentParser:
    flags = base_parser("infer", DESCRIPTION)
    paths = "a sound file of any format, or a recording; with --out also folders and patterns"
    flags.add_argument("paths", nargs="*", metavar="PATH", help=paths)
    flags.add_argument(
        "--bundle", type=Path, metavar="DIR", default=DEFAULT_BUNDLE, help="default: models/default"
    )
    usual = "off or stream: compare with the stream's usual sound; default: stream, if possible"
    flags.add_argument("--baseline", metavar="off|stream", help=usual)
    forget = "forget the baseline before this window, as a result with baseline_forgotten says it"
    flags.add_argument("--forget-at", type=int, action="append", metavar="SEQ", help=forget)
    flags.add_argument(
        "--sensitivity",
        choices=OPERATING_POINTS,
        default="medium",
        help="operating point of the bundle; default: medium",
    )
    prosody = "measure pitch, loudness, speaking rate and pauses of each utterance"
    flags.add_argument("--prosody", action="store_true", help=prosody)
    flags.add_argument("--channel", type=int, metavar="N", help="from 0; default: mix all")
    flags.add_argument("--json", action="store_true", help="one JSON object a line; needs one PATH")
    flags.add_argument(
        "--self-test", action="store_true", help="check the bundle against its golden vectors"
    )
    flags.add_argument("--runtime", choices=RUNTIMES, default="auto", help="default: auto")
    many = flags.add_argument_group("many recordings")
    many.add_argument("--out", metavar="DIR|FILE.parquet", help="where to write the table")
    lists = "a file with one path a line, or CSV with a column `file` or `path`; -: standard input"
    many.add_argument("--manifest", metavar="FILE", help=lists)
    many.add_argument("--jobs", type=int, metavar="N", help="processes; default: one a processor")
    many.add_argument("--resume", action="store_true", help="continue; skip what is done")
    many.add_argument("--shard", metavar="I/N", help="every N-th input from the I-th on")
    cluster = "a Ray cluster: local, auto, HOST:6379 or ray://HOST:10001; see docs/SCALING.md"
    many.add_argument("--cluster", metavar="ADDRESS", help=cluster)
    flags.add_argument(
        "--boxes", type=Path, metavar="FILE", help="serve other machines' boxes: docs/SCALING.md"
    )
    flags.add_argument("--features", metavar="ENDPOINT", help="where features listens")
    flags.add_argument("--hub", metavar="ENDPOINT", help="where to listen for capture and features")
    flags.add_argument(
        "--results",
        metavar="ENDPOINT",
        default="tcp://127.0.0.1:5555",
        help="where to serve subscribers; default: tcp://127.0.0.1:5555",
    )
    return flags


def main(arguments: argparse.Namespace) -> int:
    from speech_emotion.common.config.checks import check_baseline
    from speech_emotion.common.errors import UserError

    if arguments.baseline is not None:
        check_baseline(arguments.baseline)
    if arguments.out is not None:
        return batch(arguments)
    absent = (None, False)
    if given := [n for n in BATCH if not any(getattr(arguments, n) is a for a in absent)]:
        raise UserError(f"--{given[0]} needs --out DIR or --out FILE.parquet")
    if len(arguments.paths) > 1:
        raise UserError("several recordings need --out DIR or --out FILE.parquet")
    if arguments.paths:
        from speech_emotion.infer.offline.analyzer import BaselineUse
        from speech_emotion.infer.offline.command import report

        (path,) = arguments.paths
        return report(
            path,
            arguments.bundle,
            arguments.runtime,
            as_json=arguments.json,
            use=BaselineUse(arguments.baseline, frozenset(arguments.forget_at or ())),
            sensitivity=arguments.sensitivity,
            channel=arguments.channel,
            prosody=arguments.prosody,
        )
    if arguments.self_test:
        return self_test(arguments.bundle, arguments.runtime)
    for flag in ("json", "forget_at"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} needs a recording")
    if arguments.supervised:
        return supervised(read_job(InferJob))
    if arguments.boxes is not None:
        from speech_emotion.infer.host import serve_boxes

        return serve_boxes(arguments.boxes)
    return alone(arguments)


def batch(arguments: argparse.Namespace) -> int:
    """Analyse many recordings. Returns the exit code."""
    from speech_emotion.common.errors import UserError
    from speech_emotion.infer.batch.command import Batch, run

    for flag in ("json", "forget_at"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} is for one recording, without --out")
    names = ("paths", "manifest", "shard", "out", "bundle", "runtime", "channel", "jobs", "resume")
    further = ("baseline", "sensitivity", "prosody", "cluster")
    given = {name: getattr(arguments, name) for name in (*names, *further)}
    return run(Batch(**given))


def self_test(path: Path, runtime: str) -> int:
    """Load a bundle's model, which checks it against its golden vectors. Returns the exit code."""
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.infer.model import Model

    bundle = load_bundle(path)
    model = Model(bundle, runtime)
    print(f"{bundle.id}: computes the probabilities that it must, on {model.runtime}")
    return 0


def supervised(job: InferJob) -> int:
    """Run as a stage of the supervisor."""
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.common.stage.supervised import stand_by
    from speech_emotion.infer.model import Model
    from speech_emotion.infer.service import InferService

    stop = StopRequest()
    bundle, *known = (
        load_bundle(folder.path, folder.display_path).at(job.sensitivity)
        for folder in (job.bundle, *job.known)
    )
    models = {bundle.id: (bundle, Model(bundle, job.runtime))}
    if job.standby and not stand_by(job.standby, job.hub, stop):
        return 0
    return InferService(models, job.hub, job.features, job.stage, known=known).run(stop)


def serve(path: Path, runtime: str, sensitivity: str, hub: str, features: str) -> int:
    """Run the stage without a supervisor."""
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.infer.model import Model
    from speech_emotion.infer.service import InferService

    stop = StopRequest()
    bundle = load_bundle(path).at(sensitivity)
    return InferService({bundle.id: (bundle, Model(bundle, runtime))}, hub, features).run(stop)


def alone(arguments: argparse.Namespace) -> int:
    """Run the stage without a supervisor, with a results endpoint of its own."""
    from speech_emotion.common.bundle.manifest import (
        load_bundle,
        warn_without_baseline,
        warn_without_operating_point,
    )
    from speech_emotion.common.hub.health import observe, stream_info
    from speech_emotion.common.hub.hub import Hub
    from speech_emotion.common.linux.descriptors import raise_descriptor_limit
    from speech_emotion.common.linux.runtime_dir import standalone_endpoint

    raise_descriptor_limit()
    bundle = load_bundle(arguments.bundle)
    if arguments.baseline == "stream":
        warn_without_baseline(bundle)
    warn_without_operating_point(bundle, arguments.sensitivity)
    endpoint = arguments.hub or standalone_endpoint("hub")
    hub = Hub(
        arguments.results,
        endpoint,
        info=lambda opened: stream_info(opened, bundle),
        health=observe,
        bundle=bundle.id,
        baseline=arguments.baseline != "off",
    )
    hub.start()
    try:
        return serve(
            arguments.bundle,
            arguments.runtime,
            arguments.sensitivity,
            endpoint,
            arguments.features or standalone_endpoint("features"),
        )
    finally:
        hub.stop()


if __name__ == "__main__":
    run("infer", parser(), main)
