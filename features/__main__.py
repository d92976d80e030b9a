"""`python -m features`: the features of a file's windows, or the features stage of a pipeline."""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
from pathlib import Path

from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.stage.jobs import BundleFolder, FeaturesJob, RemoteFeatures
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job

DESCRIPTION = """\
With FILE: computes the features of every window of a recording, and ends. Without: the
features stage of a pipeline, which waits for `python -m capture` and `python -m infer`."""


def parser() -> argparse.ArgumentParser:
    flags = base_parser("features", DESCRIPTION)
    flags.add_argument("file", nargs="?", metavar="FILE", help="a sound file of any format")
    which = flags.add_mutually_exclusive_group()
    which.add_argument("--bundle", type=Path, metavar="DIR", help="default: models/default")
    which.add_argument(
        "--spec", type=Path, metavar="TOML", help="a file with a [features] table; needs FILE"
    )
    flags.add_argument("--out", type=Path, metavar="F.npz", help="write the arrays")
    flags.add_argument(
        "--self-test", action="store_true", help="check the bundle against its golden vectors"
    )
    flags.add_argument("--timings", action="store_true", help="print median and p99 of every step")
    flags.add_argument("--bind", metavar="ENDPOINT", help="where to listen for capture and infer")
    flags.add_argument("--hub", metavar="ENDPOINT", help="where infer listens for heartbeats")
    return flags


def main(arguments: argparse.Namespace) -> int:
    from speech_emotion.common.errors import UserError

    if arguments.file is not None:
        from speech_emotion.features.offline import report

        return report(
            arguments.file,
            bundle=arguments.bundle,
            spec=arguments.spec,
            out=arguments.out,
            timings=arguments.timings,
        )
    if arguments.self_test:
        return self_test(arguments.bundle or DEFAULT_BUNDLE)
    if arguments.spec is not None or arguments.out is not None or arguments.timings:
        raise UserError("--spec, --out and --timings need a FILE")
    if arguments.supervised:
        job = read_job(FeaturesJob)
        return serve(
            job.bundle,
            job.bind,
            job.hub,
            job.stage,
            standby=job.standby,
            remote=job.remote,
        )
    from speech_emotion.common.linux.runtime_dir import standalone_endpoint
    from speech_emotion.common.wire.endpoint import remove_file

    path = arguments.bundle or DEFAULT_BUNDLE
    bind = arguments.bind or standalone_endpoint("features")
    code = serve(BundleFolder(path, path), bind, arguments.hub or standalone_endpoint("hub"))
    remove_file(bind)
    return code


def self_test(path: Path) -> int:
    """Load a bundle's features part, which checks it against its golden vectors."""
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.features.extractor import load_extractors

    bundle = load_bundle(path)
    load_extractors(bundle)
    print(f"{bundle.id}: computes the features that it must")
    return 0


def serve(
    folder: BundleFolder,
    bind: str,
    hub: str,
    stage: str = "features",
    *,
    standby: str | None = None,
    remote: RemoteFeatures | None = None,
) -> int:
    """Run the stage until SIGTERM or Ctrl-C.

    Args:
        standby: name under which the process waits, its bundle loaded and tested, until the
            supervisor releases it.
        remote: endpoint and keys for an infer host.
    """
    import zmq

    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.common.stage.supervised import stand_by
    from speech_emotion.common.wire.sockets import connect
    from speech_emotion.features.extractor import load_extractors
    from speech_emotion.features.service import FeaturesService

    stop = StopRequest()
    bundle = load_bundle(folder.path, folder.display_path)
    analyzers = load_extractors(bundle)
    if standby and not stand_by(standby, hub, stop):
        return 0
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = connect(context, hub, "hub")
        remote_endpoint = None if remote is None else (remote.endpoint, remote.keys)
        service = FeaturesService(bundle, analyzers, bind, socket, context, stage, remote_endpoint)
        return service.run(stop)
    finally:
        context.destroy(linger=200)


if __name__ == "__main__":
    run("features", parser(), main)
