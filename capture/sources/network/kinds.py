"""The kinds of network sources: which connections read which source."""

from __future__ import annotations

import time
from collections.abc import Callable

from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.sources.network.ffmpeg import FfmpegConnection, find_ffmpeg
from speech_emotion.capture.sources.network.ffmpeg_command import command_for
from speech_emotion.capture.sources.network.source import Kind, NetworkSource
from speech_emotion.capture.sources.network.stream import NetworkStream
from speech_emotion.capture.stream import SourceOptions, StreamJob
from speech_emotion.common.source_address import shown
from speech_emotion.common.wire import internal


def kind_of(source: str) -> Kind:
    """How a source is read.

    Raises:
        UserError: ffmpeg is missing, or the source is malformed.
    """
    find_ffmpeg()
    command = command_for(source, packets=0)
    return Kind(lambda: FfmpegConnection(source), shown(source), stored=command.stored)


def open_network_streams(
    jobs: list[StreamJob],
    stream_format: StreamFormat,
    send: Callable[[internal.Tick], None],
    options: SourceOptions,
) -> list[NetworkStream]:
    """Open the streams of one network source.

    Raises:
        UserError: ffmpeg is missing, or the source is malformed.
    """
    kind = kind_of(jobs[0].source)
    source = NetworkSource(jobs, stream_format, send, options, kind, time.monotonic())
    return [NetworkStream(job, source, number) for number, job in enumerate(jobs)]
