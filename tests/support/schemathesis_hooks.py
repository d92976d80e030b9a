"""Loaded by schemathesis: an event stream without end would hold a test forever."""

from __future__ import annotations

from typing import Any

import schemathesis

STREAMS = ("/results", "/utterances", "/events")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ARG001
    query = case.query or {}
    if case.operation.path in STREAMS and str(query.get("wait", "true")).lower() in ENDLESS:
        case.query = {**query, "wait": "false"}


ENDLESS = ("true", "['true']", "[true]")
