"""Open the sources of one capture process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.sources.file import FileStream
from speech_emotion.capture.stream import Stream, StreamJob
from speech_emotion.common.stage.jobs import SourceOptions as SourceOptions
from speech_emotion.common.wire import internal


def open_streams(
    jobs: list[StreamJob],
    form: StreamFormat,
    send: Callable[[internal.Tick], None],
    opening: SourceOptions,
) -> list[Stream]:
    """The streams of one process from their jobs: files, or the streams of one device.

    Raises:
        UserError: a source cannot be opened.
        DeviceError: a device that is waited for is not there.
    """
    if jobs[0].source.startswith("mic"):
        from speech_emotion.capture.sources.microphone import LiveDevice, LiveStream

        device = LiveDevice(jobs, form, send, opening)
        return [LiveStream(j, device, p) for j, p in zip(jobs, device.feeders, strict=True)]
    if jobs[0].source.startswith("stdin"):
        from speech_emotion.capture.sources.stdin import StdinStream

        return [StdinStream(job, form, send, opening, opening.stdin) for job in jobs[:1]]
    files = []
    for job in jobs:
        frames = opening.block_frames
        blocks = itertools.repeat(frames) if frames else None
        files.append(FileStream(job, form, blocks, send, realtime=opening.realtime))
    # One clock for the blocks of all; their windows spread over a hop, as those of devices are.
    now, hop = time.monotonic(), form.hop / form.rate
    for at, file in enumerate(files):
        file.begin(now, at * hop / len(files) if opening.realtime else 0.0)
    return [*files]
