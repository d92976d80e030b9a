"""The lines of ffmpeg's muxer `framecrc`: one line per packet with its time stamp and size."""

from __future__ import annotations

import dataclasses

SAMPLE_BYTES = 4
LINE_LIMIT = 400


@dataclasses.dataclass(frozen=True)
class Packet:
    """One packet of samples.

    Attributes:
        index: time stamp of the first frame, in frames.
        frames: number of frames.
        channels: number of channels.
    """

    index: int
    frames: int
    channels: int

    @property
    def size(self) -> int:
        """Length of its samples in bytes."""
        return self.frames * self.channels * SAMPLE_BYTES


class PacketLines:
    """Parses the lines; feed it bytes of any size.

    Attributes:
        rate: sample rate in Hz; None before its line.
    """

    def __init__(self) -> None:
        self.rate: int | None = None
        self._rest = b""

    def feed(self, content: bytes) -> list[Packet]:
        """The packets whose lines are complete.

        Raises:
            ValueError: a line is none of `framecrc`.
        """
        *lines, self._rest = (self._rest + content).split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            raise ValueError("a line of ffmpeg is too long")
        return [packet for line in lines if (packet := self._packet(line.decode("ascii")))]

    def _packet(self, line: str) -> Packet | None:
        if line.startswith("#"):
            name, _, value = line.partition(":")
            if name.startswith("#tb"):  # samples are counted in units of 1/rate s
                one, _, rate = value.strip().partition("/")
                if one != "1":
                    raise ValueError(f"unexpected time base {value.strip()}")
                self.rate = int(rate)
            return None
        _, _, stamp, duration, size, *_ = (field.strip() for field in line.split(","))
        frames = int(duration)
        if frames < 1:
            return None
        return Packet(int(stamp), frames, int(size) // (frames * SAMPLE_BYTES))
