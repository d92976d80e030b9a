"""A microphone through PortAudio: found by name, opened at its own rate, blocks without a wait.

The callback copies into a preallocated buffer and wakes the loop; everything else happens in
the loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speech_emotion.capture.sources.pulseaudio import Source, default_source, sources
from speech_emotion.capture.sources.sound_file import Samples
from speech_emotion.common.errors import UserError

if TYPE_CHECKING:
    import sounddevice

BUFFER_S = 2.0
"""Sound that waits for the loop; what comes beyond is counted and declared as a gap."""
MIX_CHANNELS = 2
"""Channels that are opened, where the device has them, to be mixed."""
SERVERS = ("pulse", "pipewire", "default")
"""ALSA's names for a sound server, which resamples to whatever it is asked for and calls 44100 Hz
its own rate; its sources are listed as devices of their own."""


class NoDeviceError(UserError):
    """The device that was asked for is not there; it may come."""


@dataclasses.dataclass(frozen=True)
class Device:
    """An input device.

    Attributes:
        index: PortAudio's, valid in this process only.
        usb: vendor:product of its sound card, where that is on USB.
        rate: its own rate in Hz.
        source: the sound server's name of it; None: the server's default, or no server.
        monitor: it is what an output plays; taken only where it is named exactly.
    """

    index: int
    name: str
    usb: str | None
    channels: int
    rate: int
    default: bool
    source: str | None = None
    monitor: bool = False

    @property
    def served(self) -> bool:
        """Whether a sound server is between us and it."""
        return self.source is not None or self.name in SERVERS

    @property
    def label(self) -> str:
        """What `mic:` takes to mean this very device."""
        return self.source or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called, in small letters: USB identity, source, name."""
        return tuple(name.lower() for name in (self.usb, self.source, self.name) if name)

    def __str__(self) -> str:
        usb = f", usb {self.usb}" if self.usb else ""
        source = f" from {self.source}" if self.source else ""
        return f"{self.name!r}{source} ({self.channels} channels, {self.rate} Hz{usb})"


@dataclasses.dataclass(frozen=True)
class Block:
    """What one callback brought.

    Attributes:
        samples: (frames, channels); valid until the next block is asked for.
        lost: frames before it that found no room in the buffer.
        xrun: whether PortAudio says that it lost some.
        time: CLOCK_MONOTONIC when it came.
    """

    samples: Samples
    lost: int
    xrun: bool
    time: float


def load_portaudio() -> Any:
    """The sounddevice module.

    Raises:
        UserError: the PortAudio library is missing.
    """
    try:
        import sounddevice
    except OSError:
        raise UserError(
            "the PortAudio library is missing; install it with: sudo apt-get install libportaudio2"
        ) from None
    return sounddevice


def input_devices() -> list[Device]:
    """Every device that has input channels.

    Raises:
        UserError: the PortAudio library is missing.
    """
    portaudio = load_portaudio()
    default = portaudio.default.device[0]
    devices, server = [], None
    for index, row in enumerate(portaudio.query_devices()):
        if row["max_input_channels"] < 1:
            continue
        name, channels = row["name"], row["max_input_channels"]
        device = Device(
            index, name, _usb_identity(name), channels, round(row["default_samplerate"]), False
        )
        server = index if name in SERVERS and (server is None or name != "default") else server
        devices.append(dataclasses.replace(device, default=index == default))
    if server is None:
        return devices
    served, chosen = sources(), default_source()
    native = next((source for source in served if source.name == chosen), None)
    return [
        *(_as_native(device, native) for device in devices),
        *(_as_device(source, server) for source in served),
    ]


def _as_native(device: Device, native: Source | None) -> Device:
    if device.name not in SERVERS or native is None:
        return device
    return dataclasses.replace(device, channels=native.channels, rate=native.rate)


def _as_device(source: Source, server: int) -> Device:
    return Device(
        index=server,
        name=source.description,
        usb=source.usb,
        channels=source.channels,
        rate=source.rate,
        default=False,
        source=source.name,
        monitor=source.monitor,
    )


def find_device(name: str) -> Device:
    """The default input device for an empty name, else the one of that name or USB identity.

    Args:
        name: vendor:product in hex, the whole name, or a part of it that only one device has;
            of a sound server's sources also their own names, which a replug does not change.

    Raises:
        NoDeviceError: there is none, or more than one.
    """
    devices = input_devices()
    if not devices:
        raise NoDeviceError(
            "there is no input device at all; plug one in, or try the demo: make demo"
        )
    there = "; ".join(map(str, devices))
    if not name:
        chosen = [device for device in devices if device.default]
        if not chosen:
            raise NoDeviceError(f"there is no default input device; there are: {there}")
        return chosen[0]
    wanted = name.lower()
    exact = [device for device in devices if wanted in device.names]
    partly = [d for d in devices if not d.monitor and any(wanted in name for name in d.names)]
    for chosen in (exact, partly):
        # Through the sound server others can use it, too.
        chosen = [device for device in chosen if device.source] or chosen
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise NoDeviceError(f"{name!r} fits more than one device; there are: {there}")
    raise NoDeviceError(f"there is no input device {name!r}; there are: {there}")


def _usb_identity(name: str) -> str | None:
    # ALSA's names end in (hw:CARD,DEVICE), and the kernel knows what card that is now.
    found = re.search(r"\(hw:(\d+),\d+\)", name)
    if found is None:
        return None
    with contextlib.suppress(OSError):
        return Path(f"/proc/asound/card{found[1]}/usbid").read_text().strip().lower()
    return None


class Microphone:
    """An open input device.

    Args:
        channels: how many to open.
        block_frames: frames per callback.
        latency: seconds, or PortAudio's `low` and `high`.

    Raises:
        UserError: the device cannot be opened like this.
    """

    def __init__(
        self, device: Device, *, channels: int, block_frames: int, latency: float | str
    ) -> None:
        portaudio = load_portaudio()
        self.device = device
        self.rate = device.rate
        self.channels = channels
        self.block_frames = block_frames
        self.xruns = 0
        self.dropped = 0
        self.last_callback = time.monotonic()
        self._patience = 0
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        size = round(BUFFER_S * device.rate)
        slots = max(64, 2 * size // max(1, min(block_frames, 64)))
        self._samples: Samples = np.zeros((size, channels), np.float32)
        self._frames = [0] * slots
        self._lost = [0] * slots
        self._flags = [False] * slots
        self._times = [0.0] * slots
        self._written = self._read = 0  # blocks, in all
        self._head = self._tail = 0  # frames, in all
        self._unplaced = 0
        if device.source is not None:
            os.environ["PULSE_SOURCE"] = device.source  # read as the stream is opened
        try:
            self._stream: sounddevice.InputStream = portaudio.InputStream(
                device=device.index,
                channels=channels,
                samplerate=device.rate,
                dtype="float32",
                blocksize=block_frames,
                latency=latency,
                callback=self._callback,
            )
            self._stream.start()
        except (portaudio.PortAudioError, ValueError) as error:
            os.close(self.wakeup)
            reason = str(error).partition("[")[0].strip()
            raise NoDeviceError(f"{device} cannot be opened ({reason})") from None

    @property
    def active(self) -> bool:
        """What PortAudio says; it may be wrong, see `last_callback`."""
        return bool(self._stream.active)

    def blocks(self) -> Iterator[Block]:
        """What has come since the last call, block by block."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)
        size, slots = len(self._samples), len(self._frames)
        while self._read < self._written:
            slot = self._read % slots
            frames, start = self._frames[slot], self._tail % size
            samples = self._samples[start : start + frames]
            if len(samples) < frames:  # the one block in many that goes round the end
                samples = np.concatenate([samples, self._samples[: frames - len(samples)]])
            yield Block(samples, self._lost[slot], self._flags[slot], self._times[slot])
            self._tail += frames
            self._read += 1

    def wait_for(self, frames: int) -> None:
        """Set `wakeup` only when so many frames are there: to be woken costs more than them."""
        self._patience = frames
        if self._head - self._tail >= frames:  # they came while we were busy
            os.eventfd_write(self.wakeup, 1)

    def waiting(self) -> list[tuple[int, float]]:
        """Frames and time (CLOCK_MONOTONIC) of each block that `blocks` has not handed out yet."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)
        slots = len(self._frames)
        unread = range(self._read, self._written)
        return [(self._frames[n % slots], self._times[n % slots]) for n in unread]

    def close(self) -> None:
        """Let go of the device. A wedged one may never return: have a timer behind it."""
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)

    def _callback(self, block: Samples, frames: int, _time: Any, status: Any) -> None:
        now = time.monotonic()
        self.last_callback = now
        size, slots = len(self._samples), len(self._frames)
        xrun = bool(status.input_overflow)
        self.xruns += xrun
        room = self._head + frames - self._tail <= size and self._written - self._read < slots
        if not room:
            self._unplaced += frames
            self.dropped += frames
            return
        start = self._head % size
        first = min(frames, size - start)
        self._samples[start : start + first] = block[:first]
        if first < frames:
            self._samples[: frames - first] = block[first:]
        slot = self._written % slots
        self._frames[slot] = frames
        self._lost[slot] = self._unplaced
        self._flags[slot] = xrun
        self._times[slot] = now
        self._unplaced = 0
        self._head += frames
        self._written += 1
        if self._head - self._tail >= self._patience:
            os.eventfd_write(self.wakeup, 1)
