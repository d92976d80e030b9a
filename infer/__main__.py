"""`python -m infer`: features to emotions, of a file or as a stage of the pipeline."""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
from pathlib import Path

from speech_emotion.common.bundle.parameters import OPERATING_POINTS
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.stage.jobs import InferJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job

DESCRIPTION = """\
With FILE: prints the results of every window of a recording and its utterances, and ends.
Without: the infer stage of a pipeline; started by hand it also serves the results endpoint."""


def parser() -> argparse.ArgumentParser:
    flags = base_parser("infer", DESCRIPTION)
    flags.add_argument("file", nargs="?", metavar="FILE", help="a sound file of any format")
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
    flags.add_argument("--json", action="store_true", help="one JSON object a line; needs FILE")
    flags.add_argument(
        "--self-test", action="store_true", help="check the bundle against its golden vectors"
    )
    flags.add_argument(
        "--runtime", choices=("auto", "litert", "tflite"), default="auto", help="default: auto"
    )
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
    if arguments.file is not None:
        from speech_emotion.infer.offline import BaselineUse, report

        use = BaselineUse(arguments.baseline, frozenset(arguments.forget_at or ()))
        return report(
            arguments.file,
            arguments.bundle,
            arguments.runtime,
            as_json=arguments.json,
            use=use,
            sensitivity=arguments.sensitivity,
        )
    if arguments.self_test:
        return self_test(arguments.bundle, arguments.runtime)
    for flag in ("json", "forget_at"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')} needs a FILE")
    if arguments.supervised:
        return supervised(read_job(InferJob))
    if arguments.boxes is not None:
        from speech_emotion.infer.host import serve_boxes

        return serve_boxes(arguments.boxes)
    return alone(arguments)


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
    options = parser().parse_args()
    run("infer", lambda: main(options), options.profile)
