"""Errors a person can mend, and the exit codes that tell the classes of ends apart."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAULT = 1
"""Something broke that the user did not cause."""
EXIT_USER = 2
"""The user's mistake: configuration, file, model, device. Restarting does not help."""
EXIT_DEVICE = 3
"""A source is not there, or no longer: a fresh process may find it again."""


class DeviceError(Exception):
    """A source is not there or has gone; its text is one line."""


class UserError(Exception):
    """A mistake of the user's; its text is one line: what is wrong and how to mend it."""
