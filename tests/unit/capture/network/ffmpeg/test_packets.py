"""The lines of ffmpeg's `framecrc`."""

from __future__ import annotations

import pytest

from speech_emotion.capture.sources.network.ffmpeg.packets import Packet, PacketLines

TEXT = b"""\
#software: Lavf59.27.100
#tb 0: 1/48000
#media_type 0: audio
#codec_id 0: pcm_f32le
#sample_rate 0: 48000
#channel_layout_name 0: stereo
0,          0,          0,     1024,     8192, 0x5eac1c1e
0,       1024,       1024,     1024,     8192, 0x5eac1c1e
0,       4096,       4096,      512,     4096, 0x5eac1c1e, S=1, 10, 0x1
"""


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_lines_in_pieces_of_any_size(size: int) -> None:
    lines = PacketLines()
    packets = [
        packet for at in range(0, len(TEXT), size) for packet in lines.feed(TEXT[at : at + size])
    ]
    assert lines.rate == 48000
    assert packets == [Packet(0, 1024, 2), Packet(1024, 1024, 2), Packet(4096, 512, 2)]
    assert [packet.size for packet in packets] == [8192, 8192, 4096]


@pytest.mark.parametrize("text", [b"garbage\n", b"0,1,2\n", b"#tb 0: 1001/30000\n", b"x" * 500])
def test_other_lines_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        PacketLines().feed(text)
