"""From a declared operation and its handler to a route."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from speech_emotion.dashboard import messages
from speech_emotion.dashboard.api.declared import Operation, RefusedError, arguments
from speech_emotion.dashboard.api.operations import JSON

BODY = 1024
"""Longest body of a request in bytes, where the operation says nothing else."""
NO_STORE = {"cache-control": "no-store"}

Handler: TypeAlias = Callable[[Operation, Request, Mapping[str, Any]], Awaitable[Any]]
"""Gives a response, JSON text, or a dataclass of `messages`; its last argument has the value of
each parameter."""


def route(operation: Operation, handler: Handler) -> Route:
    """The route of an operation, below `BASE`."""

    async def endpoint(request: Request) -> Response:
        given = arguments(operation, request)
        answer = await handler(operation, request, given)
        if isinstance(answer, Response):
            return answer
        text = answer if isinstance(answer, str) else messages.to_json(answer)
        return Response(text, media_type=JSON, headers=NO_STORE)

    return Route(operation.path, endpoint, methods=[operation.method])


async def json_body(request: Request, limit: int = BODY) -> Any:
    """The JSON body of a request.

    Raises:
        RefusedError: it is longer than `limit` bytes, no JSON, or the client is gone.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise RefusedError(415, f"the body must be {JSON}")
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise RefusedError(413, f"the body is longer than {limit} bytes")
    except ClientDisconnect:
        raise RefusedError(400, "the body is incomplete") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is no JSON") from None
