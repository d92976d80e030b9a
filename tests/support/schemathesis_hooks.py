"""Loaded by schemathesis: an event stream without end would hold a test forever."""

from __future__ import annotations

from typing import Any

import schemathesis

STREAMS = ("/results", "/utterances", "/events")


@schemathesis.hook
def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    if context.operation.path in STREAMS and (query or {}).get("wait", "true") in (True, "true"):
        return {**(query or {}), "wait": "false"}
    return query
