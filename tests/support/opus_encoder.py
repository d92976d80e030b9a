"""Encodes sound as Opus packets with the system's libopus, and decodes them as a reference."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

Pcm = NDArray[np.int16]
VOIP = 2048
PACKET_S = 0.02


def library() -> ctypes.CDLL | None:
    """libopus; None where it is not installed."""
    try:
        return ctypes.CDLL("libopus.so.0")
    except OSError:
        return None


def encode(pcm: Pcm, rate: int) -> list[bytes]:
    """Packets of 20 ms of samples (frames, channels)."""
    opus = library()
    assert opus is not None
    opus.opus_encoder_create.restype = ctypes.c_void_p
    channels, frames = pcm.shape[1], round(PACKET_S * rate)
    encoder = ctypes.c_void_p(opus.opus_encoder_create(rate, channels, VOIP, None))
    packets, buffer = [], ctypes.create_string_buffer(4000)
    for at in range(0, len(pcm) - frames + 1, frames):
        part = np.ascontiguousarray(pcm[at : at + frames], np.int16).tobytes()
        size = opus.opus_encode(encoder, part, frames, buffer, len(buffer))
        assert size > 0
        packets.append(buffer.raw[:size])
    opus.opus_encoder_destroy(encoder)
    return packets


def decode(packets: list[bytes], rate: int, channels: int) -> Pcm:
    """The samples of packets: (frames, channels)."""
    opus = library()
    assert opus is not None
    opus.opus_decoder_create.restype = ctypes.c_void_p
    decoder = ctypes.c_void_p(opus.opus_decoder_create(rate, channels, None))
    most = round(0.12 * rate)
    parts, buffer = [], np.zeros((most, channels), np.int16)
    for packet in packets:
        where = buffer.ctypes.data_as(ctypes.c_void_p)
        frames = opus.opus_decode(decoder, packet, len(packet), where, most, 0)
        assert frames > 0
        parts.append(buffer[:frames].copy())
    opus.opus_decoder_destroy(decoder)
    return np.concatenate(parts)
