"""Sound in UDP datagrams that a device sends to this machine: RTP with L16, or samples alone."""

from __future__ import annotations

import errno
import os
import socket
import struct

import numpy as np

from speech_emotion.capture.samples import Samples
from speech_emotion.capture.sources.network.connection import Chunk, End
from speech_emotion.capture.sources.network.listening import ListenAddress
from speech_emotion.common.errors import UserError

BUFFER_BYTES = 1 << 20
LARGEST = 65536
RTP_HEADER = struct.Struct("!BBHII")
RTP_VERSION = 2
WRAP = 1 << 32
SENDER_GONE_S = 2.0
"""Seconds of silence after which another sender is accepted in place of the first one."""


class DatagramConnection:
    """A bound UDP socket and its one sender at a time."""

    def __init__(self, address: ListenAddress) -> None:
        self.rate: int | None = address.rate
        self.end: End | None = None
        self.doing = f"listening at {address.host}:{address.port}, nothing has arrived"
        self._address = address
        self._sender: tuple[object, ...] | None = None
        self._heard = 0.0
        self._source_id: int | None = None
        self._unwrapped = 0
        self._socket: socket.socket | None = None
        try:
            self._socket = bind(address)
        except UserError as error:
            self.end = End(str(error))

    def read(self, now: float, seconds: float) -> list[Chunk]:
        """The chunks that have arrived, about `seconds` of sound at most."""
        chunks: list[Chunk] = []
        room = seconds * self._address.rate
        while room > 0 and self.end is None and self._socket is not None:
            try:
                datagram, sender = self._socket.recvfrom(LARGEST)
            except BlockingIOError:
                break
            except OSError as error:
                self.end = End(f"the socket failed ({error.strerror})")
                break
            if self._sender not in (None, sender) and now - self._heard < SENDER_GONE_S:
                continue  # one sender at a time: the sound of two would be mixed by packets
            chunk = self._chunk(datagram, now)
            if chunk is None:
                continue
            if self._sender not in (None, sender):
                self.end = End("another device sends now")
                break
            self._sender, self._heard = sender, now
            chunks.append(chunk)
            room -= len(chunk.samples)
        return chunks

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    def _chunk(self, datagram: bytes, now: float) -> Chunk | None:
        """The samples of a datagram; None where it holds none."""
        if self._address.scheme == "udp":
            samples = decode(datagram, self._address.channels, "<i2")
            return None if samples is None else Chunk(samples, now, None)
        payload = rtp_payload(datagram)
        if payload is None:
            return None
        samples = decode(payload, self._address.channels, ">i2")
        if samples is None:
            return None
        _, _, _, stamp, source_id = RTP_HEADER.unpack_from(datagram)
        if self._source_id is None:
            self._source_id, self._unwrapped = source_id, stamp
        if source_id != self._source_id:
            self.end = End("the sender has started again")
            return None
        step = (stamp - self._unwrapped + WRAP // 2) % WRAP - WRAP // 2
        if step < 0:  # late or repeated: its place is a gap already
            return None
        self._unwrapped += step
        return Chunk(samples, now, self._unwrapped)


def bind(address: ListenAddress) -> socket.socket:
    """A UDP socket at an address, which does not wait.

    Raises:
        UserError: the address is none of this machine, or in use.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        bound.bind((address.host, address.port))
    except OSError as error:
        bound.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "is already in use; stop the other program or choose another"
        raise UserError(f"UDP address {address.host}:{address.port}: {reason}") from None
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    return bound


def decode(content: bytes, channels: int, kind: str) -> Samples | None:
    """16-bit samples as (frames, channels); None where no frame is complete."""
    frames = len(content) // (2 * channels)
    if not frames:
        return None
    values = np.frombuffer(content, kind, frames * channels)
    samples: Samples = values.reshape(frames, channels).astype(np.float32)
    samples /= np.float32(32768.0)
    return samples


def rtp_payload(datagram: bytes) -> bytes | None:
    """The payload of an RTP packet, without extension, contributing sources and padding."""
    if len(datagram) < RTP_HEADER.size or datagram[0] >> 6 != RTP_VERSION:
        return None
    first = datagram[0]
    start = RTP_HEADER.size + 4 * (first & 0x0F)
    if first & 0x10:
        if len(datagram) < start + 4:
            return None
        start += 4 + 4 * int.from_bytes(datagram[start + 2 : start + 4], "big")
    end = len(datagram) - (datagram[-1] if first & 0x20 else 0)
    return datagram[start:end] if start < end else None
