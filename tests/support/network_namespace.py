"""A network namespace that is connected to this machine by a wire through this process."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections import deque

from speech_emotion.common.closing import Closing

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PACKET_BYTES = 2048
LOOK_S = 0.2
NETWORKS = 250


@dataclasses.dataclass(frozen=True)
class Site:
    """Where servers of sound run.

    Attributes:
        host: address at which they listen.
        box: address of this machine, as they see it.
        prefix: words before the command of each.
    """

    host: str = "127.0.0.1"
    box: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


LOCAL = Site()


def possible() -> bool:
    """Whether this process may make a network namespace."""
    return os.geteuid() == 0 and shutil.which("ip") is not None and os.path.exists("/dev/net/tun")


class NetworkNamespace(Closing):
    """A namespace and its only wire: two TUN devices, between which a thread carries packets.

    Args:
        index: of several at once, each another; they reach this machine at each address of it.

    Attributes:
        site: for the servers that run in it.
        cut: drop every packet without a reset, as a pulled cable does.
        jitter_s: longest random delay of a packet; their order is kept.
    """

    def __init__(self, index: int = 0) -> None:
        self.cut = False
        self.jitter_s = 0.0
        number, near, self._fds = _devices(index)
        far = f"sepf{number}-{index}"
        self._name = f"sep{os.getpid()}-{index}"
        net = f"10.77.{number}"
        self.site = Site(
            *(f"{net}.{4 * index + 2}", f"{net}.{4 * index + 1}"),
            ("ip", "netns", "exec", self._name),
        )
        _ip("netns", "add", self._name)
        _ip("link", "set", far, "netns", self._name)
        _ip("addr", "add", f"{self.site.box}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", self._name, "addr", "add", f"{self.site.host}/30", "dev", far)
        for device in (far, "lo"):
            _ip("-n", self._name, "link", "set", device, "up")
        _ip("-n", self._name, "route", "add", "default", "via", self.site.box)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def pull(self) -> None:
        """Drop every packet from now on."""
        self.cut = True

    def plug(self) -> None:
        """Carry packets again."""
        self.cut = False

    def close(self) -> None:
        """Remove the namespace and its wire."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        for descriptor in self._fds:
            os.close(descriptor)
        _ip("netns", "del", self._name)

    def _carry(self) -> None:
        chance = random.Random(0)
        waiting: dict[int, deque[tuple[float, bytes]]] = {fd: deque() for fd in self._fds}
        other = dict(zip(self._fds, reversed(self._fds), strict=True))
        while not self._closed.is_set():
            due = [queue[0][0] for queue in waiting.values() if queue]
            wait = max(0.0, min([LOOK_S, *(moment - time.monotonic() for moment in due)]))
            readable, _, _ = select.select(self._fds, [], [], wait)
            now = time.monotonic()
            for fd in readable:
                packet = os.read(fd, PACKET_BYTES)
                if self.cut:
                    continue
                queue = waiting[other[fd]]
                earliest = queue[-1][0] if queue else now
                delay = chance.uniform(0.0, self.jitter_s) if self.jitter_s else 0.0
                queue.append((max(earliest, now + delay), packet))
            for fd, queue in waiting.items():
                while queue and queue[0][0] <= now:
                    with contextlib.suppress(OSError):  # a device that is not up yet
                        os.write(fd, queue.popleft()[1])


def _devices(index: int) -> tuple[int, str, tuple[int, int]]:
    """The first free number of a network, from this process's own on, and its two devices."""
    for step in range(NETWORKS):
        number = (os.getpid() + step) % NETWORKS
        near = f"sepn{number}-{index}"
        try:
            first = _tun(near)
        except OSError as error:
            if error.errno == errno.EBUSY:  # of another process
                continue
            raise
        return number, near, (first, _tun(f"sepf{number}-{index}"))
    raise OSError("no network of 10.77.0.0/16 is free")


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
        fcntl.ioctl(descriptor, TUNSETIFF, flags)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
