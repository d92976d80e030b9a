"""A command: the alert as JSON on its standard input and in its environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.common.alert_address import AlertAddress

TIMEOUT_S = 30.0
"""Longest time in seconds that a command may take; then it and its children are killed."""
MAX_OUTPUT = 4096


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
    try:
        process = subprocess.Popen(
            address.words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DeliveryError(f"{address.words[0]}: {reason}") from None
    with process:
        try:
            _, errors = process.communicate(alert.to_json().encode() + b"\n", timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise DeliveryError(f"took longer than {TIMEOUT_S:g} s and was killed") from None
    if process.returncode != 0:
        last = errors[-MAX_OUTPUT:].decode("utf-8", "replace").strip().splitlines()[-1:]
        raise DeliveryError(": ".join([f"exit code {process.returncode}", *last]))
