"""What systemd wants to hear of a service: ready, alive, status, stopping. See sd_notify(3).

Datagrams to the socket in `NOTIFY_SOCKET`; nothing where there is none.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping

STATUS_LIMIT = 200


class SystemdNotifier:
    """Tells the service manager how the pipeline is.

    Args:
        environment: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` are taken out of,
            so that no child can speak for us.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        path = environment.pop("NOTIFY_SOCKET", "")
        self._interval = _watchdog_interval(environment)
        environment.pop("WATCHDOG_USEC", None)
        environment.pop("WATCHDOG_PID", None)
        # An @ stands for the NUL of an abstract address.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if path else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._ready = False
        self._status = ""
        self._due = 0.0

    def turn(self, now: float, *, ready: bool, well: bool, status: str) -> None:
        """Tell what is new.

        Args:
            now: CLOCK_MONOTONIC.
            ready: everything that can be ready is; told once.
            well: the watchdog may be fed; called from the loop that it watches.
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
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if self._socket is not None:
            try:
                self._socket.sendto(text.encode(), self._address)
            except OSError:
                # Its queue is full, or it is gone; a watchdog that hears nothing does its work.
                return


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Half of the time that the watchdog allows; None where it does not watch us."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(environment["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
