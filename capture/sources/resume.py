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

COMPARED_S = (1.0, 25.0)
"""Shortest and longest span in seconds of samples before the write index that must be equal."""
EVIDENCE = 200.0
"""Sum of the magnitudes of the compared samples of a lossy file, at least. A decoder that starts
at the wrong frame rounds differently: a hundredth of the samples above -40 dBFS differ, with equal
runs of up to a sum of 100, and of quiet ones almost none."""
SETTLE_S = 1.0
"""Seconds that are decoded before the compared samples: filters settle in half a second."""
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


def starts(
    file: SoundFile, stream_format: StreamFormat, position: int, compared: int
) -> Iterator[Start]:
    """Places from which the samples up to `position` can be compared, the best one first.

    Args:
        compared: number of samples before `position` that are compared.
    """
    rate = stream_format.rate
    lead = compared + round(SETTLE_S * rate)
    if file.frames is None or position < 2 * lead:
        return
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


def written_tail(
    ring: str, stream_format: StreamFormat, position: int, *, lossy: bool
) -> Samples | None:
    """The samples before `position` in a ring that have to be equal.

    Args:
        lossy: the decoder's rounding depends on where it starts; compare enough loud samples.

    Returns:
        None where the ring holds too few of them, or a gap.
    """
    shortest, longest = (round(seconds * stream_format.rate) for seconds in COMPARED_S)
    with RingReader.attach(ring) as reader:
        longest = min(longest, position, reader.capacity - stream_format.rate)
        gap_end = max((end for _, end in reader.gaps() if end <= position), default=0)
        longest = min(longest, position - gap_end)
        if longest < shortest:
            return None
        tail = np.empty(longest if lossy else shortest, np.float32)
        if not reader.read(position - len(tail), tail, position):
            return None
    if not lossy:
        return tail
    evidence = np.cumsum(np.abs(tail[::-1]))
    if evidence[-1] < EVIDENCE:
        return None
    needed = max(shortest, int(np.searchsorted(evidence, EVIDENCE)) + 1)
    return tail[-needed:]
