"""Where a restarted process continues to read a file, so that the ring gets the same bits.

A seek is exact in a lossless file at the stream's own rate. Elsewhere a decoder or the resampler
needs a lead, and its rounding may depend on where it started. So the samples of the lead are
compared with those that the ring still holds: `RingFeeder` does that before it writes. Where no
attempt matches, the file is decoded from its start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.samples import Samples
from speech_emotion.capture.sound_file import SoundFile
from speech_emotion.common.ring.reader import RingReader

COMPARED_S = 1.0
"""Seconds of samples before the write index that must be equal."""
LEAD_S = 2.0
"""Seconds that are decoded before the write index, at least: filters settle in half a second."""
MPEG_FRAMES = 16 * 576
"""Frames to which a seek is aligned: the rounding of MP3 decoders depends on the frame's number."""
ATTEMPTS = 6
RESAMPLER_PERIOD = {
    (8000, 16000): 830,
    (12000, 16000): 2490,
    (22050, 16000): 109_368,
    (24000, 16000): 2202,
    (32000, 16000): 1660,
    (44100, 16000): 218_736,
    (48000, 16000): 4404,
}
"""Source and stream rate in Hz → source frames after which soxr's rounding repeats (measured)."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Where to start reading.

    Attributes:
        frame: frame of the file at which to seek.
        discard: frames to read from there and not to feed.
        skip: samples at the stream's rate that are fed and not written.
    """

    frame: int
    discard: int
    skip: int


def starts(file: SoundFile, stream_format: StreamFormat, position: int) -> Iterator[Start]:
    """Places from which the samples up to `position` can be compared, the best one first."""
    rate = stream_format.rate
    if file.frames is None or position < 2 * LEAD_S * rate:
        return
    lead = round(LEAD_S * rate)
    if file.rate == rate:
        for attempt in range(ATTEMPTS):
            frame = (position - lead) // MPEG_FRAMES * MPEG_FRAMES - attempt * MPEG_FRAMES
            if frame >= 0:
                yield Start(frame, 0, position - frame)
        return
    period = RESAMPLER_PERIOD.get((file.rate, rate))
    if period is None:
        return
    # The last multiple of the period before the lead; its first sample has a whole index.
    first = (position - lead) * file.rate // rate // period * period
    index = first * rate // file.rate
    if first <= 0:
        return
    if file.seekable:
        yield Start(first, 0, position - index)
        return
    for attempt in range(ATTEMPTS):
        frame = (first - file.rate // 2) // MPEG_FRAMES * MPEG_FRAMES - attempt * MPEG_FRAMES
        if frame >= 0:
            yield Start(frame, first - frame, position - index)


def written_tail(ring: str, stream_format: StreamFormat, position: int) -> Samples | None:
    """The last samples before `position` in a ring; None where it holds too few, or a gap."""
    tail = np.empty(round(COMPARED_S * stream_format.rate), np.float32)
    start = position - len(tail)
    with RingReader.attach(ring) as reader:
        if start < 0 or any(end > start for _, end in reader.gaps()):
            return None
        return tail if reader.read(start, tail, position) else None
