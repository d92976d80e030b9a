"""Worker processes and progress bars for work on many clips."""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def pool(
    workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> multiprocessing.pool.Pool:
    """A pool of fresh interpreters. A fork after TensorFlow has started its threads can hang.

    Args:
        start: called once in every worker with `arguments`.
    """
    return multiprocessing.get_context("spawn").Pool(workers, start, arguments)


def progress(results: Iterator[T], total: int, title: str) -> list[T]:
    """A list of the results; shows a progress bar with `title` meanwhile."""
    from tqdm import tqdm

    return list(tqdm(results, total=total, desc=title, mininterval=5.0))
