"""Decodes Opus packets with the system's libopus (Debian: libopus0)."""

from __future__ import annotations

import ctypes
import functools

from speech_emotion.common.errors import UserError

RATES = (8000, 12000, 16000, 24000, 48000)
"""Rates in Hz at which Opus decodes."""
CHANNELS = (1, 2)
LONGEST_S = 0.12
"""Longest packet in seconds."""


@functools.cache
def load_opus() -> ctypes.CDLL:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        library = ctypes.CDLL("libopus.so.0")
    except OSError:
        raise UserError("Opus needs libopus; install it with: apt-get install libopus0") from None
    library.opus_decoder_create.argtypes = (
        *(ctypes.c_int32, ctypes.c_int),
        ctypes.POINTER(ctypes.c_int),
    )
    library.opus_decoder_create.restype = ctypes.c_void_p
    library.opus_decode.argtypes = (
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32),
        *(ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    )
    library.opus_decode.restype = ctypes.c_int
    library.opus_decoder_destroy.argtypes = (ctypes.c_void_p,)
    library.opus_decoder_destroy.restype = None
    return library


class OpusDecoder:
    """Decodes the packets of one stream. Each gives exactly the frames that its header says.

    Args:
        rate: of the samples, one of `RATES`.
        channels: 1 or 2.

    Raises:
        UserError: libopus is missing.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self._library = load_opus()
        self._channels = channels
        self._most = round(LONGEST_S * rate)
        self._buffer = ctypes.create_string_buffer(2 * channels * self._most)
        error = ctypes.c_int()
        self._decoder = self._library.opus_decoder_create(rate, channels, ctypes.byref(error))
        if not self._decoder:
            raise UserError(f"libopus cannot decode {rate} Hz with {channels} channel(s)")

    def decode(self, packet: bytes) -> bytes:
        """Signed 16-bit samples of this machine's byte order, channels interleaved.

        Raises:
            ValueError: it is no Opus packet.
        """
        frames = self._library.opus_decode(
            self._decoder, packet, len(packet), self._buffer, self._most, 0
        )
        if frames < 0 or not packet:  # an empty packet would be a lost one
            raise ValueError("what it sends is no Opus")
        return ctypes.string_at(self._buffer, 2 * self._channels * frames)

    def close(self) -> None:
        """Free the decoder."""
        self._library.opus_decoder_destroy(self._decoder)
        self._decoder = None
