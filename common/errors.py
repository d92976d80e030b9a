"""Errors that a user or an administrator can mend, and the exit codes of all commands."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAULT = 1
"""A fault that the user did not cause; a restart may help."""
EXIT_USER = 2
"""A mistake of the user: configuration, file, model, device. A restart does not help."""
EXIT_DEVICE = 3
"""A source is missing; a new process may find it later."""


class DeviceError(Exception):
    """A source is missing or has gone; its text is one line."""


class UserError(Exception):
    """A mistake of the user; its text is one line: what is wrong and how to mend it."""
