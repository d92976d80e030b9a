"""A sound card is found by what does not depend on the order of plugging."""

from __future__ import annotations

from pathlib import Path

import pytest

from speech_emotion.capture.sources import portaudio
from speech_emotion.capture.sources.portaudio import Device, card_identity, find_device


def cards(folder: Path) -> Path:
    """What the kernel shows of a built-in card and of two USB microphones."""
    for number, (name, usb) in enumerate(
        [("PCH", None), ("Device", "0D8C:0014"), ("Camera", "046d:0825")]
    ):
        (folder / f"card{number}").mkdir()
        (folder / f"card{number}" / "id").write_text(f"{name}\n")
        if usb:
            (folder / f"card{number}" / "usbid").write_text(f"{usb}\n")
    return folder


def test_the_kernel_tells_the_name_and_the_usb_identity(tmp_path: Path) -> None:
    folder = cards(tmp_path)
    assert card_identity("USB Audio: - (hw:1,0)", folder) == ("Device", "0d8c:0014")
    assert card_identity("Built-in: ALC257 (hw:0,0)", folder) == ("PCH", None)
    assert card_identity("pulse", folder) == (None, None)
    assert card_identity("gone: - (hw:7,0)", folder) == (None, None)


@pytest.mark.parametrize("wanted", ["Device", "device", "0d8c:0014", "(hw:1,0)", "USB Audio"])
def test_a_card_is_chosen_without_a_sound_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    folder = cards(tmp_path)
    names = ["Built-in: ALC257 (hw:0,0)", "USB Audio: - (hw:1,0)", "UVC Camera: - (hw:2,0)"]
    devices = []
    for index, name in enumerate(names):
        card, usb = card_identity(name, folder)
        devices.append(Device(index, name, usb, 2, 48000, default=index == 0, card=card))
    monkeypatch.setattr(portaudio, "input_devices", lambda: devices)
    assert find_device(wanted).index == 1
    assert "card Device, usb 0d8c:0014" in str(find_device(wanted))
