"""The kinds of network sources: which connections read which source."""

from __future__ import annotations

import time
from collections.abc import Callable

from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.sources.network.source import QUIET_S, Kind, NetworkSource
from speech_emotion.capture.sources.network.stream import NetworkStream
from speech_emotion.capture.stream import SourceOptions, StreamJob
from speech_emotion.common.security.exposure import split_listen
from speech_emotion.common.source_address import shown
from speech_emotion.common.wire import internal

SRT_QUIET_S = 2.0
"""Seconds without a sample after which an SRT source is lost. SRT delivers each packet after a
fixed delay of some 100 ms or never: no sound is later, and the fault is named within 3 s."""


def open_network_streams(
    jobs: list[StreamJob],
    stream_format: StreamFormat,
    send: Callable[[internal.Tick], None],
    options: SourceOptions,
) -> list[NetworkStream]:
    """Open the streams of one process: of one source, or of the devices at one port.

    Raises:
        UserError: ffmpeg is missing, a source is malformed, or a port is in use.
    """
    by_source: dict[str, list[StreamJob]] = {}
    for job in jobs:
        by_source.setdefault(job.source, []).append(job)
    streams: list[NetworkStream] = []
    for (_, same), kind in zip(by_source.items(), _kinds(list(by_source), options), strict=True):
        source = NetworkSource(same, stream_format, send, options, kind, time.monotonic())
        streams += [NetworkStream(job, source, number) for number, job in enumerate(same)]
    return streams


def _kinds(sources: list[str], options: SourceOptions) -> list[Kind]:
    """How each source is read. Imports only what they need."""
    if sources[0].startswith("wyoming:"):
        return [_wyoming(source) for source in sources]
    if sources[0].partition(":")[0] == "pipewire":
        return [_pipewire(source) for source in sources]
    if not sources[0].startswith("listen:"):
        return [_ffmpeg(source) for source in sources]
    if sources[0].startswith(("listen:ws:", "listen:wss:")):
        return _devices(sources, options)
    return [_datagrams(source) for source in sources]


def _ffmpeg(source: str) -> Kind:
    from speech_emotion.capture.sources.network.ffmpeg import connection
    from speech_emotion.capture.sources.network.ffmpeg.command import command_for

    connection.find_ffmpeg()
    stored = command_for(source, packets=0).stored
    connect = connection.SegmentConnection if stored else connection.FfmpegConnection
    return Kind(
        lambda: connect(source),
        shown(source),
        stored=stored,
        quiet_s=SRT_QUIET_S if source.startswith("srt:") else QUIET_S,
    )


def _wyoming(source: str) -> Kind:
    from speech_emotion.capture.sources.network.wyoming import WyomingConnection

    host, port = split_listen(source.removeprefix("wyoming:"))
    return Kind(lambda: WyomingConnection(host, int(port)), source)


def _pipewire(source: str) -> Kind:
    from speech_emotion.capture.sources.network.pipewire import PipeWireConnection, require_pipewire

    require_pipewire()
    name = source.partition(":")[2]
    return Kind(lambda: PipeWireConnection(name), source)


def _datagrams(source: str) -> Kind:
    from speech_emotion.capture.sources.network.datagrams import DatagramConnection, bind
    from speech_emotion.capture.sources.network.listening import parse

    address = parse(source)
    bind(address).close()
    return Kind(lambda: DatagramConnection(address), source, attempt_s=None)


def _devices(sources: list[str], options: SourceOptions) -> list[Kind]:
    from speech_emotion.capture.sources.network.listening import parse
    from speech_emotion.capture.sources.network.websocket import Listener, WebSocketConnection

    names = [parse(source).name for source in sources]
    listener = Listener(parse(sources[0]), names, options.listen)

    def kind(source: str, name: str) -> Kind:
        url = source.removeprefix("listen:")
        return Kind(lambda: WebSocketConnection(listener, name, url), source, attempt_s=None)

    return [kind(source, name) for source, name in zip(sources, names, strict=True)]
