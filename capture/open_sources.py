"""Open the sources of one capture process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.sources.file import FileStream
from speech_emotion.capture.stream import SourceOptions, Stream, StreamJob
from speech_emotion.common.errors import UserError
from speech_emotion.common.source_address import FFMPEG_KINDS, shown
from speech_emotion.common.wire import internal


def open_streams(
    jobs: list[StreamJob],
    stream_format: StreamFormat,
    send: Callable[[internal.Tick], None],
    options: SourceOptions,
    *,
    muted: bool = False,
) -> list[Stream]:
    """Open the streams of one process: any number of files, or the streams of one device
    or network source.

    Args:
        send: takes every tick.
        muted: whether no sound may be taken yet.

    Raises:
        UserError: a source cannot be opened.
        DeviceError: an absent device, to be waited for.
    """
    kind = jobs[0].source.partition(":")[0]
    if kind == "mic":
        # Imported here: a process for files loads no audio library.
        from speech_emotion.capture.sources.microphone import LiveDevice, LiveStream

        device = LiveDevice(jobs, stream_format, send, options, muted=muted)
        return [
            LiveStream(job, device, feeder)
            for job, feeder in zip(jobs, device.feeders, strict=True)
        ]
    if kind == "stdin":
        from speech_emotion.capture.sources.stdin import StdinStream

        return [StdinStream(job, stream_format, send, options) for job in jobs[:1]]
    if kind == "watch":
        from speech_emotion.capture.sources.watch import WatchStream

        return [WatchStream(job, stream_format, send, options) for job in jobs]
    if kind in (*FFMPEG_KINDS, "listen", "wyoming", "pipewire"):
        from speech_emotion.capture.sources.network.kinds import open_network_streams

        return [*open_network_streams(jobs, stream_format, send, options)]
    if kind not in ("file", "replay"):
        raise UserError(f"source {shown(jobs[0].source)!r} is of no known kind")
    files = []
    for job in jobs:
        blocks = itertools.repeat(options.block_frames) if options.block_frames else None
        files.append(
            FileStream(
                job,
                stream_format,
                blocks,
                send,
                realtime=options.realtime,
                recorded=options.recorded,
            )
        )
    # All files share one clock for their blocks. Their starts are spread over one hop, as those
    # of devices are, so that their windows are not all complete at the same moment.
    now, hop_s = time.monotonic(), stream_format.hop_s
    for number, file in enumerate(files):
        file.begin(now, number * hop_s / len(files) if options.realtime else 0.0)
    return [*files]
