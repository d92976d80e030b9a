"""How an operation of the HTTP interface is declared, and how its arguments are read.

The declarations of `operations.py` are both what the server checks and what the OpenAPI document
says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from speech_emotion.common.errors import printable

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LONGEST = 256
"""Longest value of a parameter."""


class RefusedError(Exception):
    """A request that is refused.

    Attributes:
        status: the HTTP status.
        text: what is wrong, in one line.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = dict(headers or {})


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a query.

    Attributes:
        name: its name.
        text: what it means.
        schema: its JSON schema.
        parse: the value of a text; raises ValueError where the schema does not allow it.
        default: value where it is absent.
        required: whether it must be given.
    """

    name: str
    text: str
    schema: Mapping[str, Any]
    parse: Callable[[str], Any] = str
    default: Any = None
    required: bool = False


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        method: `GET` or `POST`.
        path: below `/api/v1`.
        name: name of its handler.
        summary: what it does, in one line.
        parameters: of the query.
        answers: media type → class of the answer, or None for text and bytes.
        events: kinds of the events that it sends, where it is an event stream.
        body: class of the JSON body.
        refusals: status → when it is answered, beside those of all operations.
    """

    method: str
    path: str
    name: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    answers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    events: tuple[str, ...] = ()
    body: type | None = None
    refusals: Mapping[int, str] = dataclasses.field(default_factory=dict)


def arguments(operation: Operation, request: Request) -> dict[str, Any]:
    """The value of each parameter of an operation.

    Raises:
        RefusedError: a parameter is unknown, missing, given twice or malformed.
    """
    known = {parameter.name: parameter for parameter in operation.parameters}
    given: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise RefusedError(400, f"unknown parameter {_short(name)}; known: {names}")
        if name in given:
            raise RefusedError(400, f"{name} is given twice")
        if len(text) > LONGEST:
            raise RefusedError(400, f"{name} is longer than {LONGEST} characters")
        try:
            given[name] = known[name].parse(text)
        except ValueError as error:
            raise RefusedError(400, f"{name} = {_short(text)}: {error}") from None
    missing = [one.name for one in operation.parameters if one.required and one.name not in given]
    if missing:
        raise RefusedError(400, f"{missing[0]} is missing")
    return {name: given.get(name, one.default) for name, one in known.items()}


def _short(text: str) -> str:
    return repr(printable(text[:40]))


def parse_time(text: str) -> float:
    """A unix time in seconds, from a number or from an RFC 3339 time."""
    if NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
        raise ValueError("must be a unix time in seconds")
    # In a query, `+` stands for a space: `…T10:00:00+01:00` arrives as `…T10:00:00 01:00`.
    whole = re.sub(r"^(.{19,}) (\d\d:\d\d)$", r"\1+\2", text).upper()
    moment: dt.datetime | None = None
    with contextlib.suppress(ValueError):
        moment = dt.datetime.fromisoformat(whole)
    if moment is None or moment.tzinfo is None or "T" not in whole:
        raise ValueError("must be a unix time in seconds, or a time such as 2026-11-28T09:30:00Z")
    return moment.timestamp()


def one_of(*values: str) -> Callable[[str], str]:
    """A parser of one of some words."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return text

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of a number in a range."""

    def parse(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a number from {least} to {most}")
        return int(text)

    return parse


def parse_bool(text: str) -> bool:
    """`true` or `false`."""
    return one_of("true", "false")(text) == "true"
