"""The light that is on exactly while sound is analysed.

A thread of its own switches it, because a command may take a while. A second process, the keeper,
switches it off when the supervisor ends in whatever way: it waits for the end of its standard
input.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.config.privacy import LEDS, LightConfig
from speech_emotion.common.errors import UserError

log = logging.getLogger("light")

COMMAND_S = 5.0
"""Longest time in seconds that the command may take."""
RETRY_S = 10.0
"""Seconds between two attempts to switch on a light that failed."""
END_S = COMMAND_S + 1.0
KEEPER = 'trap "" INT TERM HUP; while read -r _; do :; done; '
"""Shell script of the keeper: ignore signals, and wait for the end of the standard input."""


class Lamp:
    """A light emitting diode in sysfs.

    Raises:
        UserError: the folder has no brightness that can be written.
    """

    def __init__(self, folder: Path) -> None:
        self._brightness = folder / "brightness"
        try:
            self._most = (folder / "max_brightness").read_text().strip() or "1"
            with contextlib.suppress(FileNotFoundError):
                (folder / "trigger").write_text("none")  # else the kernel blinks it
            self._brightness.write_text("0")
        except OSError as error:
            raise UserError(
                f"light.led {folder}: cannot be switched ({error.strerror}); "
                f"the user needs the right to write {self._brightness}"
            ) from None

    @property
    def keeper(self) -> list[str]:
        """Command that switches it off at the end of its standard input."""
        return ["/bin/sh", "-c", f'{KEEPER} printf 0 >"$0"', str(self._brightness)]

    def switch(self, *, on: bool) -> None:
        """Switch it. Raises OSError."""
        self._brightness.write_text(self._most if on else "0")


class CommandLamp:
    """A light that a command switches, called with the last argument `on` or `off`.

    Raises:
        UserError: the command cannot be run.
    """

    def __init__(self, command: str) -> None:
        self._words = shlex.split(command)
        try:
            self.switch(on=False)
        except OSError as error:
            raise UserError(f"light.command: {error}") from None

    @property
    def keeper(self) -> list[str]:
        """Command that switches it off at the end of its standard input."""
        return ["/bin/sh", "-c", f'{KEEPER} exec "$0" "$@" off', *self._words]

    def switch(self, *, on: bool) -> None:
        """Switch it. Raises OSError."""
        try:
            done = subprocess.run(
                [*self._words, "on" if on else "off"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_S,
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"{self._words[0]} took longer than {COMMAND_S:g} s") from None
        if done.returncode != 0:
            raise OSError(f"{self._words[0]} ended with exit code {done.returncode}")


class Light:
    """Switches the lamp as wanted. Use `turn` and `close` from one thread.

    Args:
        lamp: the light.
        changed: called from another thread when the light was switched, or failed.

    Attributes:
        on: whether it is on.
        failure: why it cannot be switched on; None where it works.
    """

    def __init__(self, lamp: Lamp | CommandLamp, changed: Callable[[], None]) -> None:
        self.on = False
        self.failure: str | None = None
        self._lamp = lamp
        self._report = changed
        self._wanted = False
        self._closing = False
        self._retry = self._keeper_due = 0.0
        self._changed = threading.Condition()
        self._keeper = self._start_keeper()
        self._thread = threading.Thread(target=self._run, name="light", daemon=True)
        self._thread.start()

    def turn(self, now: float, *, wanted: bool) -> None:
        """Switch it on or off, soon; check the keeper.

        A light that cannot be switched on is tried again, whether it is wanted or not.

        Args:
            now: CLOCK_MONOTONIC.
        """
        if self._keeper.poll() is not None and now >= self._keeper_due:
            log.warning("the keeper of the light has ended; starting it again")
            self._keeper_due = now + RETRY_S
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            try:
                self._keeper = self._start_keeper()
            except OSError as error:
                log.error("the keeper of the light cannot be started (%s)", error.strerror)
        if self.failure is not None:
            if now < self._retry:
                return
            self._retry, wanted = now + RETRY_S, True
        elif wanted == self._wanted:
            return
        with self._changed:
            self._wanted = wanted
            self._changed.notify()

    def close(self) -> None:
        """Switch it off, and end the keeper."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(END_S)
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        try:
            self._keeper.wait(END_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def _start_keeper(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._lamp.keeper,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _run(self) -> None:
        done: bool | None = None
        while True:
            with self._changed:
                while self._wanted == done and not self._closing:
                    self._changed.wait()
                wanted, closing = self._wanted and not self._closing, self._closing
            done = wanted
            self._switch(on=wanted)
            if closing:
                return

    def _switch(self, *, on: bool) -> None:
        try:
            self._lamp.switch(on=on)
        except OSError as error:
            reason = error.strerror or str(error)
            if on:
                self._retry = time.monotonic() + RETRY_S
                self.failure = reason
                self._wanted = False
            log.error("the light cannot be switched %s (%s)", "on" if on else "off", reason)
        else:
            if self.failure is not None and on:
                log.info("the light works again")
                self.failure = None
            self.on = on
        self._report()


def make_light(config: LightConfig, changed: Callable[[], None]) -> Light | None:
    """The configured light, switched off; None where there is none.

    Raises:
        UserError: it cannot be switched.
    """
    if config.led is not None:
        return Light(Lamp(LEDS / config.led), changed)
    if config.command is not None:
        return Light(CommandLamp(config.command), changed)
    return None
