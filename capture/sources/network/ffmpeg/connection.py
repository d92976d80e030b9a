"""Sound through ffmpeg: one child process per connection. It decodes; this process never waits."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import fcntl
import os
import shutil
import struct
import subprocess
import termios
import time
from collections import deque

import numpy as np

from speech_emotion.capture.sources.network.connection import Chunk, End
from speech_emotion.capture.sources.network.ffmpeg.command import command_for
from speech_emotion.capture.sources.network.ffmpeg.messages import end_of
from speech_emotion.capture.sources.network.ffmpeg.packets import Packet, PacketLines
from speech_emotion.common.errors import UserError
from speech_emotion.common.linux.parent_death import die_with_parent
from speech_emotion.common.source_address import secrets_of

PIPE_BYTES = 1 << 20
"""Wanted size of the pipe with the samples: 2.7 s of stereo at 48 kHz."""
F_SETPIPE_SZ = 1031
READ_BYTES = 1 << 16
JOIN_S = 0.02
"""Packets are joined to chunks of at least so many seconds, where they have arrived."""
LAST_LINES = 12
"""Lines of ffmpeg's stderr that are kept; older ones are dropped."""
LINE_BYTES = 500
LEAVE_S = 1.0
"""Longest time in seconds in which ffmpeg takes leave of its server: cameras have few sessions, and
an SRT server that is not told waits 5 s."""
PROMPT_S = 0.1
"""Time in seconds that `close` waits for that: the source's fault is reported after it."""
REAP_S = 0.2
"""Longest wait for a killed ffmpeg; the kernel ends it at once unless a disk hangs."""


def find_ffmpeg() -> str:
    """Path of ffmpeg.

    Raises:
        UserError: it is not installed.
    """
    path = shutil.which("ffmpeg")
    if path is None:
        raise UserError("network sources need ffmpeg; install it with: sudo apt-get install ffmpeg")
    return path


class FfmpegConnection:
    """One ffmpeg that reads the source and writes samples as float32 into a pipe.

    Create it in a thread that lives as long: the kernel kills ffmpeg when that thread ends.

    Raises:
        UserError: ffmpeg is missing, or the arguments are malformed.
    """

    def __init__(self, source: str) -> None:
        self.rate: int | None = None
        self.end: End | None = None
        self.doing = "connecting"
        self._secrets = secrets_of(source)
        self._stamped = True
        self._started = time.monotonic()
        self._lines = PacketLines()
        self._packets: deque[Packet] = deque()
        self._joined: Packet | None = None
        self._content = bytearray()
        self._read_bytes = 0
        self._errors: deque[str] = deque(maxlen=LAST_LINES)
        self._error_rest = b""
        program = find_ffmpeg()
        end_leaving()  # the next one may need the same port
        packets, packets_in = os.pipe2(os.O_CLOEXEC)
        try:
            command = command_for(source, packets_in)
            self._stamped = command.stamped
            self._process = subprocess.Popen(
                [program, *command.words],
                stdin=subprocess.DEVNULL if command.listing is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(packets_in,),
                preexec_fn=die_with_parent,
                env={**os.environ, "LC_ALL": "C", "AV_LOG_FORCE_NOCOLOR": "1"},
            )
        except BaseException:
            os.close(packets)
            raise
        finally:
            os.close(packets_in)
        self._packets_fd = packets
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._samples_fd = self._process.stdout.fileno()
        self._errors_fd = self._process.stderr.fileno()
        for descriptor in (packets, self._samples_fd, self._errors_fd):
            os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):  # a limit of the system: the usual 64 KiB remain
            fcntl.fcntl(self._samples_fd, F_SETPIPE_SZ, PIPE_BYTES)
        if command.listing is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as listing:
                listing.write(command.listing.encode("utf-8", "surrogateescape"))

    def read(self, now: float, seconds: float) -> list[Chunk]:
        """The chunks that have arrived, about `seconds` of sound at most."""
        self._read_errors()
        chunks: list[Chunk] = []
        wanted: float | None = None
        try:
            while wanted is None or wanted > 0:
                self._read_packets()
                if self.rate is None:
                    break
                if wanted is None:
                    wanted = seconds * self.rate
                chunk = self._chunk(now)
                if chunk is None:
                    break
                chunks.append(chunk)
                wanted -= len(chunk.samples)
        except ValueError as error:
            self.end = End(f"ffmpeg gives unexpected output: {error}")
            return chunks
        if not chunks:
            self._check_end()
        return chunks

    def close(self) -> None:
        """Ask ffmpeg to end. One that is stopped or hangs is killed before the next one starts."""
        process = self._process
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:  # it must not wait for a reader
                with contextlib.suppress(OSError):
                    stream.close()
        if self._packets_fd >= 0:
            os.close(self._packets_fd)
            self._packets_fd = -1
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(PROMPT_S)
        except subprocess.TimeoutExpired:
            _leaving.append((process, time.monotonic() + LEAVE_S))

    def _chunk(self, now: float) -> Chunk | None:
        """The next samples; None where they have not arrived completely."""
        self._joined = packet = self._joined or self._join()
        if packet is None:
            return None
        while len(self._content) < packet.size:
            content = _read(self._samples_fd, min(READ_BYTES, packet.size - len(self._content)))
            if not content:
                return None
            self._content += content
            self._read_bytes += len(content)
        samples = np.frombuffer(bytes(self._content), np.float32)
        self._content.clear()
        self._joined = None
        index = packet.index if self._stamped else None
        return Chunk(samples.reshape(packet.frames, packet.channels), now, index)

    def _join(self) -> Packet | None:
        """The next packets that follow each other without a gap, up to 20 ms, as one.

        Some codecs have packets of a millisecond, and each chunk costs time.
        """
        if not self._packets or self.rate is None:
            return None
        first = self._packets.popleft()
        frames = first.frames
        while self._packets and frames < JOIN_S * self.rate:
            following = self._packets[0]
            if following.index != first.index + frames or following.channels != first.channels:
                break
            frames += following.frames
            self._packets.popleft()
        return dataclasses.replace(first, frames=frames)

    def _read_packets(self) -> None:
        if not self._packets and (content := _read(self._packets_fd, 4096)):
            self._packets.extend(self._lines.feed(content))
            if self.rate is None and self._lines.rate is not None:
                self.rate = self._lines.rate
                self.doing = "connected"

    def _read_errors(self) -> None:
        while content := _read(self._errors_fd, READ_BYTES):
            *lines, rest = (self._error_rest + content).split(b"\n")
            self._error_rest = rest[-LINE_BYTES:]
            for line in lines[-LAST_LINES:]:
                self._errors.append(line[:LINE_BYTES].decode("utf-8", "replace"))

    def _check_end(self) -> None:
        code = self._process.poll()
        if code is None:
            return
        self._read_errors()  # its last lines are still in the pipe
        lines = [*self._errors, self._error_rest.decode("utf-8", "replace")]
        silent_s = time.monotonic() - self._started if self.rate is None else 0.0
        self.end = end_of(lines, code, self._secrets, silent_s)


_leaving: list[tuple[subprocess.Popen[bytes], float]] = []
"""Processes that were asked to end, and the time (CLOCK_MONOTONIC) after which they are killed."""


def end_leaving() -> None:
    """Wait for the processes that were asked to end; kill those that do not."""
    while _leaving:
        process, until = _leaving.pop()
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(REAP_S)


atexit.register(end_leaving)


class SegmentConnection(FfmpegConnection):
    """The same for a server that keeps sound in segments, which ffmpeg reads ahead (HLS)."""

    @property
    def received(self) -> int:
        """Bytes of samples that ffmpeg has written: those that were read, and those in the pipe."""
        waiting = fcntl.ioctl(self._samples_fd, termios.FIONREAD, bytes(4))
        return self._read_bytes + int(struct.unpack("i", waiting)[0])


def _read(descriptor: int, size: int) -> bytes:
    """Bytes that can be read without waiting; empty: none, or the end."""
    try:
        return os.read(descriptor, size)
    except BlockingIOError:
        return b""
