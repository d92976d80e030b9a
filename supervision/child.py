"""A stage as a child process: start it, read its stderr, stop it."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable

from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD
from speech_emotion.common.paths import IMPORT_ROOT
from speech_emotion.common.stage.jobs import Job, encode
from speech_emotion.common.stage.main import ERROR_LINE_MARK

LINE_LIMIT = 2000
LAST_LENGTH = 500
"""Longest part in characters of the last line that `last_line` returns."""
LAST_WAITS, LAST_WAIT_S = 20, 0.05
"""How often, and for how many seconds each time, it waits for the thread that reads. A single long
wait would be over when a machine continues that did not run this process, and so not the thread."""
ROUTINE_LINE = re.compile(r"\d\d:\d\d:\d\d (INFO|DEBUG) ")
"""Log lines that are no cause of an end, see `LOG_FORMAT`."""


class Child:
    """`python -m MODULE --supervised`, its job on standard input, its stderr line by line.

    Create it in a thread that lives longer than the child: the kernel kills the child when the
    thread that started it ends.

    Args:
        write: called from another thread with every line that the child writes to stderr.
        inherit: file descriptors that the child keeps open, under the same numbers.
        ended: called from another thread when the child has ended.
        hold: whether the child waits, ready to start, until `release()`.

    Raises:
        OSError, RuntimeError: the system has no descriptor, process or thread left.
    """

    def __init__(
        self,
        module: str,
        arguments: tuple[str, ...],
        job: Job,
        write: Callable[[str], None],
        inherit: tuple[int, ...] = (),
        ended: Callable[[], None] = lambda: None,
        *,
        hold: bool = False,
    ) -> None:
        self._write = write
        self._ended = ended
        self._last = ""
        path = os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"speech_emotion.{module}", "--supervised", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=inherit,
            env={**os.environ, **ONE_BLAS_THREAD, "PYTHONPATH": path},
            # Ctrl-C is for the supervisor; a child that still imports cannot ignore it yet.
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name=f"{module} stderr", daemon=True)
        try:
            self._reader.start()
        except RuntimeError:  # too many threads
            self._process.kill()
            self._process.communicate()
            raise
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode(job))
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once; `exit_code` returns how
        if not hold:
            self.release()

    def release(self) -> None:
        """Let a held child start its work."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    def last_line(self) -> str | None:
        """The last line that a child wrote to stderr before it ended; no routine log line."""
        for _ in range(LAST_WAITS):
            self._reader.join(LAST_WAIT_S)
        return self._last or None

    def terminate(self) -> None:
        """Ask it to stop in an orderly way."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, even while it is stopped."""
        self._process.kill()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for raw in iter(lambda: stream.readline(LINE_LIMIT), b""):
                line = raw.decode("utf-8", "replace").rstrip()
                if line:
                    if not ROUTINE_LINE.match(line):
                        self._last = line.removeprefix(ERROR_LINE_MARK)[:LAST_LENGTH]
                    if not line.startswith(ERROR_LINE_MARK):
                        self._write(line)
        self._process.wait()
        self._ended()
