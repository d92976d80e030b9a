"""A base class for objects that `with` closes."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Context manager that calls `close()` on exit. `close()` must be safe to call twice."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
