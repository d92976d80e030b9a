"""What every table of the configuration is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from speech_emotion.common.errors import UserError

T = TypeVar("T")
V = TypeVar("V")


class Table(BaseModel):
    """A table of the configuration: no unknown key, no later change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked(check: Callable[[V], T], value: V) -> T:
    """The result of a check; its UserError as the ValueError that pydantic expects."""
    try:
        return check(value)
    except UserError as error:
        raise ValueError(str(error)) from None
