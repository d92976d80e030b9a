"""Notify systemd of the state of a service: ready, alive, status, stopping. See sd_notify(3).

The messages are datagrams to the socket that `NOTIFY_SOCKET` names. Without that variable the
notifier does nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

from speech_emotion.common.closing import Closing

STATUS_LIMIT = 200
"""Longest status line in characters."""


class SystemdNotifier(Closing):
    """Sends the state of this process to the service manager.

    Args:
        environment: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are removed from it, so
            that no child process can send notifications in the name of this one.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        self._interval = _watchdog_interval(environment)
        environment.pop("WATCHDOG_USEC", None)
        environment.pop("WATCHDOG_PID", None)
        # systemd writes the NUL of an abstract address as @.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if path else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._ready = False
        self._status = ""
        self._due = 0.0

    def turn(self, now: float, *, ready: bool, well: bool, status: str) -> None:
        """Send what has changed since the last call.

        Args:
            now: CLOCK_MONOTONIC.
            ready: whether every process that can be ready is ready; sent once.
            well: whether to feed the watchdog. Call `turn` from the loop that the watchdog checks.
            status: one line for people.
        """
        if self._socket is None:
            return
        if ready and not self._ready:
            self._ready = True
            self._send("READY=1")
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status[:STATUS_LIMIT]}")
        if well and self._interval is not None and now >= self._due:
            self._due = now + self._interval
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Notify that the service has begun to stop."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket; nothing is sent from now on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            try:
                self._socket.sendto(text.encode(), self._address)
            except OSError:
                # systemd's queue is full or its socket is gone. A watchdog that receives
                # nothing restarts the service.
                return


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Half of the watchdog's time in seconds; None where no watchdog checks this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environment["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
