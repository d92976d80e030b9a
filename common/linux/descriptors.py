"""The limit of open file descriptors."""

from __future__ import annotations

import contextlib
import resource

WANTED = 65536
"""Descriptors that are enough for every bound on connections together with 256 streams."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process and its children, as far as the hard limit permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
