"""A command: the alert as JSON on its standard input and in its environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.common.alert_address import AlertAddress

TIMEOUT_S = 30.0
"""Longest time in seconds that a command may take; then it and its children are killed."""
MAX_OUTPUT = 4096
"""Bytes of its error output that are read for the text of a failure."""


def send(address: AlertAddress, alert: Alert) -> None:
    """Run a command, without a shell; exit code 0 means that the alert was delivered.

    Raises:
        DeliveryError: it cannot be run, takes too long, or ends with another code.
    """
    variables = {
        "SEP_ALERT_ID": alert.id,
        "SEP_ALERT_RULE": alert.rule,
        "SEP_ALERT_STREAM": alert.stream,
        "SEP_ALERT_TITLE": alert.title,
        "SEP_ALERT_TEXT": alert.text,
    }
    # Files, not pipes: a child that the command leaves behind may keep them open.
    with tempfile.TemporaryFile() as content, tempfile.TemporaryFile() as errors:
        content.write(alert.to_json().encode() + b"\n")
        content.seek(0)
        try:
            process = subprocess.Popen(
                address.words,
                stdin=content,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DeliveryError(f"{address.words[0]}: {reason}") from None
        with process:
            try:
                code = process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise DeliveryError(f"took longer than {TIMEOUT_S:g} s and was killed") from None
        if code != 0:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - MAX_OUTPUT))
            last = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            raise DeliveryError(": ".join([f"exit code {code}", *last]))
