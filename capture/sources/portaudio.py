"""A microphone through PortAudio: found by name, opened at its own sample rate.

The callback copies into a preallocated buffer and wakes the loop. The loop does everything else.
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

from speech_emotion.capture.samples import Samples
from speech_emotion.capture.sources.pulseaudio import Source, default_source, sources
from speech_emotion.common.errors import UserError

if TYPE_CHECKING:
    import sounddevice

BUFFER_S = 2.0
"""Seconds of samples that the buffer holds for the loop. Further samples are dropped, counted and
declared as a gap."""
JOINED_S = 0.1
"""Most seconds of callbacks in a row that are one block."""
MIX_CHANNELS = 2
"""Most channels of a device that are opened to be mixed."""
SERVERS = ("pulse", "pipewire", "default")
"""ALSA's names for a sound server. It resamples to any rate and reports 44100 Hz as its own, so
its sources are listed as devices of their own."""
CARDS = Path("/proc/asound")
NEVER = 1 << 62
"""More frames than a buffer holds."""


class NoDeviceError(UserError):
    """The named device is absent; it may be plugged in later."""


@dataclasses.dataclass(frozen=True)
class Device:
    """An input device.

    Attributes:
        index: PortAudio's index, valid in this process only.
        name: PortAudio's name, or the sound server's description.
        usb: vendor:product of the sound card; None where it is not on USB.
        card: ALSA's name of the sound card, such as `Device` or `PCH`; None without one.
        channels: number of input channels.
        rate: sample rate of the hardware in Hz.
        default: whether it is the default input device.
        source: name of the sound server's source; None: its default source, or no server.
        loopback: whether it repeats what an output plays (PulseAudio calls it a monitor); used
            only if named exactly.
    """

    index: int
    name: str
    usb: str | None
    channels: int
    rate: int
    default: bool
    source: str | None = None
    loopback: bool = False
    card: str | None = None

    @property
    def served(self) -> bool:
        """Whether it is reached through a sound server."""
        return self.source is not None or self.name in SERVERS

    @property
    def label(self) -> str:
        """The name after `mic:` that selects this device."""
        return self.source or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """All its names in lower case: USB identity, card, source, name."""
        return tuple(n.lower() for n in (self.usb, self.card, self.source, self.name) if n)

    def __str__(self) -> str:
        usb = f", usb {self.usb}" if self.usb else ""
        usb = f", card {self.card}{usb}" if self.card else usb
        source = f" from {self.source}" if self.source else ""
        return f"{self.name!r}{source} ({self.channels} channels, {self.rate} Hz{usb})"


@dataclasses.dataclass(frozen=True)
class Block:
    """The samples of one callback, or of several in a row.

    Attributes:
        samples: (frames, channels); valid until the next block is requested.
        lost: frames before this block that were dropped because the buffer was full.
        xrun: whether PortAudio reported an overrun before this block.
        time: CLOCK_MONOTONIC when its last frame had been captured, by the least delayed callback.
    """

    samples: Samples
    lost: int
    xrun: bool
    time: float


def load_portaudio() -> Any:
    """Import the sounddevice module.

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


def refresh_devices() -> None:
    """Make PortAudio read its list of devices again; no device may be open."""
    portaudio = load_portaudio()
    portaudio._terminate()
    portaudio._initialize()


def input_devices() -> list[Device]:
    """List all devices that have input channels.

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
        card, usb = card_identity(name)
        rate = round(row["default_samplerate"])
        device = Device(index, name, usb, channels, rate, default=False, card=card)
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
        loopback=source.loopback,
    )


def find_device(name: str) -> Device:
    """Find an input device by name; an empty name means the default device.

    Args:
        name: vendor:product in hex, ALSA's name of the card, the name of the device or of the
            sound server's source, or a part of a name that only one device has.

    Raises:
        NoDeviceError: no device matches, or more than one.
    """
    devices = input_devices()
    if not devices:
        raise NoDeviceError("no input device; plug one in, or try the demo: make demo")
    listing = "; ".join(map(str, devices))
    if not name:
        chosen = [device for device in devices if device.default]
        if not chosen:
            raise NoDeviceError(f"no default input device; available: {listing}")
        return chosen[0]
    wanted = name.lower()
    exact = [device for device in devices if wanted in device.names]
    partly = [d for d in devices if not d.loopback and any(wanted in name for name in d.names)]
    for chosen in (exact, partly):
        # Prefer the sound server: other programs can then use the device too.
        chosen = [device for device in chosen if device.source] or chosen
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            raise NoDeviceError(f"{name!r} matches more than one device; available: {listing}")
    raise NoDeviceError(f"no input device {name!r}; available: {listing}")


def card_identity(name: str, cards: Path = CARDS) -> tuple[str | None, str | None]:
    """ALSA's name and the USB identity of a device's sound card; None where it has none.

    The number of a card depends on what was plugged in first; these two do not.

    Args:
        name: PortAudio's name, which ends in (hw:CARD,DEVICE) where ALSA opens the card itself.
        cards: folder in which the kernel describes the cards.
    """
    found = re.search(r"\(hw:(\d+),\d+\)", name)
    if found is None:
        return None, None
    folder = cards / f"card{found[1]}"
    return _line(folder / "id"), (_line(folder / "usbid") or "").lower() or None


def _line(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        return path.read_text().strip() or None
    return None


class Microphone:
    """An open input device.

    Args:
        channels: number of channels to open.
        block_frames: frames per callback.
        latency: seconds, or PortAudio's `low` and `high`.

    Raises:
        NoDeviceError: the device cannot be opened with these parameters.

    Attributes:
        xruns: overruns that PortAudio has reported.
        dropped: frames dropped because the buffer was full.
        last_callback: CLOCK_MONOTONIC of the newest callback.
        wakeup: file descriptor that is readable when the frames set by `wake_at` have arrived.
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
        self._wake_frames = 0
        self._most = round(JOINED_S * device.rate)
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        size = round(BUFFER_S * device.rate)
        slots = max(64, 2 * size // max(1, min(block_frames, 64)))
        self._samples: Samples = np.zeros((size, channels), np.float32)
        self._frames = [0] * slots
        self._lost = [0] * slots
        self._flags = [False] * slots
        self._times = [0.0] * slots
        self._written = self._read = 0  # blocks since the start
        self._head = self._tail = 0  # frames since the start
        self._dropped_before = 0
        if device.source is not None:
            os.environ["PULSE_SOURCE"] = device.source  # read when the stream is opened
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
        """PortAudio's own flag. It stays True for some lost devices; see `SourceMonitor.check`."""
        return bool(self._stream.active)

    def blocks(self) -> Iterator[Block]:
        """The blocks that have arrived since the last call; those in a row as one, up to a limit.

        A block costs the same whatever its length.
        """
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)
        size, slots = len(self._samples), len(self._frames)
        while self._read < self._written:
            slot = self._read % slots
            frames, start = self._frames[slot], self._tail % size
            arrived, number = self._times[slot], 1
            for following in range(self._read + 1, self._written):
                at = following % slots
                joined = frames + self._frames[at]
                if self._lost[at] or self._flags[at] or joined > min(self._most, size - start):
                    break
                # Of these blocks the least delayed one tells when the last frame was captured.
                arrived = min(arrived + self._frames[at] / self.rate, self._times[at])
                frames, number = joined, number + 1
            samples = self._samples[start : start + frames]
            if len(samples) < frames:  # this block wraps round the end of the buffer
                samples = np.concatenate([samples, self._samples[: frames - len(samples)]])
            yield Block(samples, self._lost[slot], self._flags[slot], arrived)
            self._tail += frames
            self._read += number

    def wake_at(self, frames: int) -> None:
        """Signal `wakeup` when `frames` frames are in the buffer; fewer are not worth a wake-up."""
        self._wake_frames = frames
        if self._head - self._tail >= frames:  # they arrived during the last turn
            os.eventfd_write(self.wakeup, 1)

    def pending(self) -> list[tuple[int, float]]:
        """Frames and time (CLOCK_MONOTONIC) of each block that `blocks` has not yielded yet."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)
        slots = len(self._frames)
        unread = range(self._read, self._written)
        return [(self._frames[n % slots], self._times[n % slots]) for n in unread]

    def discard(self) -> None:
        """Discard the blocks that have arrived, and ask for no wake-up."""
        for _ in self.blocks():
            pass
        self._wake_frames = NEVER

    def close(self) -> None:
        """Close the device. This may hang for a lost device: call it under a timer."""
        self._stream.abort(ignore_errors=True)
        self._stream.close(ignore_errors=True)

    def _callback(self, block: Samples, frames: int, _time: Any, status: Any) -> None:
        now = time.monotonic()
        self.last_callback = now
        size, slots = len(self._samples), len(self._frames)
        xrun = bool(status.input_overflow)
        self.xruns += xrun
        fits = self._head + frames - self._tail <= size and self._written - self._read < slots
        if not fits:
            self._dropped_before += frames
            self.dropped += frames
            return
        start = self._head % size
        first = min(frames, size - start)
        self._samples[start : start + first] = block[:first]
        if first < frames:
            self._samples[: frames - first] = block[first:]
        slot = self._written % slots
        self._frames[slot] = frames
        self._lost[slot] = self._dropped_before
        self._flags[slot] = xrun
        self._times[slot] = now
        self._dropped_before = 0
        self._head += frames
        self._written += 1
        if self._head - self._tail >= self._wake_frames:
            os.eventfd_write(self.wakeup, 1)
