"""`python -m capture`: read a source into its ring, alone or under the supervisor."""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
import logging
import secrets
import sys
import time
from pathlib import Path

from speech_emotion.common.config.checks import SOURCES
from speech_emotion.common.errors import EXIT_FAULT, printable
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.source_address import FFMPEG_KINDS
from speech_emotion.common.stage.jobs import CaptureJob, SourceOptions, StreamJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job

log = logging.getLogger("capture")

DESCRIPTION = """\
Reads a microphone, a sound file, a pipe or a network source into a shared-memory ring and shows
the level.
With `python -m features` and `python -m infer` in two other terminals it is a complete
pipeline. The three find each other without flags."""


def parser() -> argparse.ArgumentParser:
    flags = base_parser("capture", DESCRIPTION)
    flags.add_argument(
        "--source",
        metavar="SOURCE",
        help=f"{SOURCES}; required",
    )
    flags.add_argument(
        "--list-devices", action="store_true", help="list the input devices and exit"
    )
    flags.add_argument(
        "--seconds", type=float, metavar="S", help="close the device after S seconds"
    )
    flags.add_argument(
        "--record", metavar="OUT.wav", help="write the device's samples to a sound file"
    )
    flags.add_argument(
        "--speed",
        choices=("realtime", "max"),
        default="realtime",
        help="pace of a file; default: realtime",
    )
    flags.add_argument("--stream", default="main", metavar="NAME", help="default: main")
    flags.add_argument(
        "--channel", type=int, metavar="N", help="channel to take, from 0; default: all, mixed"
    )
    flags.add_argument(
        "--block", type=int, metavar="FRAMES", help="frames that are read at once; default: 20 ms"
    )
    flags.add_argument(
        "--latency",
        type=latency,
        default="high",
        help="of the device: seconds, low or high; default: high",
    )
    flags.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        default=DEFAULT_BUNDLE,
        help="gives sample rate, window and hop; default: models/default",
    )
    flags.add_argument(
        "--ring-seconds", type=float, default=30.0, metavar="S", help="ring length; default: 30"
    )
    flags.add_argument("--features", metavar="ENDPOINT", help="where the features stage listens")
    flags.add_argument("--hub", metavar="ENDPOINT", help="where the infer stage listens")
    return flags


def latency(text: str) -> float | str:
    """Parse PortAudio's latency: `low`, `high` or seconds.

    Raises:
        ValueError: it is none of them.
    """
    return text if text in ("low", "high") else float(text)


def list_devices() -> int:
    """Print one line per input device, the default one marked; return the exit code."""
    from speech_emotion.capture.sources.portaudio import input_devices

    devices = input_devices()
    for device in devices:
        print(printable(f"{'*' if device.default else ' '} mic:{device.label}  {device}"))
    if not devices:
        print("no input device", file=sys.stderr)
    elif sys.stdout.isatty():
        print("other sources: cameras, radio, phones, folders; see docs/SOURCES.md")
    return 0 if devices else 1


def main(arguments: argparse.Namespace) -> int:
    if arguments.list_devices:
        return list_devices()
    return supervised(read_job(CaptureJob)) if arguments.supervised else alone(arguments)


def supervised(job: CaptureJob) -> int:
    """Run the capture stage with the job of the supervisor; return the exit code."""
    from speech_emotion.capture.mute_gate import MuteGate
    from speech_emotion.capture.open_sources import open_streams
    from speech_emotion.capture.ring_feeder import StreamFormat
    from speech_emotion.capture.service import CaptureService
    from speech_emotion.common.bundle.grid import WindowGrid
    from speech_emotion.common.ring.layout import FOLDER, segment_inode

    for stream in job.streams:
        if segment_inode(stream.ring) is None:  # no mistake of the user
            log.error("stream %s: its ring was removed from %s; restart", stream.name, FOLDER)
            return EXIT_FAULT
    stop = StopRequest()
    stream_format = StreamFormat(job.rate, WindowGrid(job.window, job.hop))
    latency = job.options.latency
    gate = MuteGate(job.mute, latency if isinstance(latency, float) else 0.0)
    muted = gate.muted(time.monotonic())
    return CaptureService(
        lambda send: open_streams(list(job.streams), stream_format, send, job.options, muted=muted),
        stream_format,
        features=job.features,
        hub=job.hub,
        stage=job.stage,
        mute=gate,
    ).run(stop)


def alone(arguments: argparse.Namespace) -> int:
    """Run without a supervisor: create the ring, show a level meter, use a hub if one answers."""
    from speech_emotion.capture.level_meter import LevelMeter
    from speech_emotion.capture.open_sources import open_streams
    from speech_emotion.capture.ring_feeder import StreamFormat
    from speech_emotion.capture.service import CaptureService
    from speech_emotion.common.bundle.grid import WindowGrid
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.common.config.checks import check_source, check_stream
    from speech_emotion.common.errors import UserError
    from speech_emotion.common.linux.runtime_dir import standalone_endpoint
    from speech_emotion.common.ring.segment import create_ring, reclaim_segments

    if arguments.source is None:
        raise UserError("--source is missing; for example --source file:examples/demo.flac")
    check_source(arguments.source)
    check_stream(arguments.stream)
    if arguments.block is not None and not 1 <= arguments.block <= 96000:
        raise UserError(f"--block {arguments.block} must be 1 to 96000 (frames)")
    if arguments.channel is not None and arguments.channel < 0:
        raise UserError(f"--channel {arguments.channel} must be 0 or more")
    if arguments.seconds is not None and not arguments.seconds > 0:
        raise UserError(f"--seconds {arguments.seconds:g} must be more than 0")
    live = arguments.source.partition(":")[0] in ("mic", "listen", "wyoming", *FFMPEG_KINDS)
    if not live and (arguments.seconds or arguments.record):
        raise UserError("--seconds and --record need a live source: a microphone or a URL")
    spec = load_bundle(arguments.bundle).spec
    stream_format = StreamFormat(spec.sample_rate, WindowGrid(spec.window, spec.hop))
    if not 2.0 * spec.window_s + 2.0 <= arguments.ring_seconds <= 3600.0:
        least = 2.0 * spec.window_s + 2.0
        raise UserError(f"--ring-seconds {arguments.ring_seconds:g} must be {least:g} to 3600")
    stop = StopRequest()
    reclaim_segments()
    with create_ring(
        arguments.stream,
        sample_rate=stream_format.rate,
        capacity=round(arguments.ring_seconds * stream_format.rate),
        run=secrets.token_hex(8),
    ) as ring:
        job = StreamJob(arguments.stream, arguments.source, ring.name, arguments.channel)
        options = SourceOptions(
            realtime=arguments.speed == "realtime",
            block_frames=arguments.block,
            latency=arguments.latency,
            record=arguments.record,
            seconds=arguments.seconds,
            alone=True,
        )
        with LevelMeter(enabled=sys.stderr.isatty()) as meter:
            return CaptureService(
                lambda send: open_streams([job], stream_format, send, options),
                stream_format,
                features=arguments.features or standalone_endpoint("features"),
                hub=arguments.hub or standalone_endpoint("hub"),
                alone=True,
                show=meter.show,
            ).run(stop)


if __name__ == "__main__":
    run("capture", parser(), main)
