"""The limit of open descriptors of this process, which its children inherit."""

from __future__ import annotations

import contextlib
import resource

WANTED = 8192
"""Descriptors of a supervisor: 256 connections each of two endpoints, sockets, pipes, and room
for connections that arrive faster than they can be closed."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit (1024 by default) to 8192, or to the hard limit if that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    limit = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft < limit:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
