"""The handlers of the HTTP interface `/api/v1`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.control_messages import MuteSet, SetMute
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.access.middleware import allowed
from speech_emotion.dashboard.api.alerts import AlertOperations
from speech_emotion.dashboard.api.declared import Operation, RefusedError
from speech_emotion.dashboard.api.events import EventStreams, Wanted
from speech_emotion.dashboard.api.history import HistoryOperations
from speech_emotion.dashboard.api.operations import EVENTS, JSON, OPERATIONS
from speech_emotion.dashboard.api.review import ReviewOperations
from speech_emotion.dashboard.api.routing import NO_STORE, Handler, json_body, route
from speech_emotion.dashboard.api.settings import SettingsOperations
from speech_emotion.dashboard.live.live_state import LiveState
from speech_emotion.dashboard.model_cards import bundle_folders, find_card

DOCUMENT = Path(__file__).resolve().parent / "openapi.json"
"""Written by `python -m tools.documents`."""
MUTE_BODY = 'the body must be JSON such as {"muted": true, "seconds": 60}; seconds: 1 to 31622400'


class Api:
    """The handlers of all operations.

    Args:
        live_state: the present.
        streams: the event streams.
        history: the SQLite file, or None.
        bundle: folder of a bundle whose model card is served, besides the shipped ones.
        control: control socket of the supervisor; None: it cannot be muted from here.
        review: the handlers of `/review…`.
        settings: the handlers of `/settings…`.
    """

    def __init__(
        self,
        live_state: LiveState,
        streams: EventStreams,
        history: Path | None,
        bundle: Path | None,
        control: Path | None,
        review: ReviewOperations,
        settings: SettingsOperations,
    ) -> None:
        self._live_state = live_state
        self._streams = streams
        self._history = HistoryOperations(history)
        self._cards = (bundle, review.adapted)
        self._control = control
        self._alerts = AlertOperations(control)
        names = [(one, f"{one.method.lower()}_{one.name}") for one in OPERATIONS]
        self.routes = [
            route(one, getattr(self, f"_{name}", None) or _handler(name, review, settings))
            for one, name in names
        ]

    async def _get_service(self, *_: Any) -> messages.Service:
        return self._live_state.service

    async def _get_streams(self, *_: Any) -> messages.Streams:
        return self._live_state.streams()

    async def _get_health(self, *_: Any) -> messages.HealthReport:
        return self._live_state.health()

    async def _get_events(
        self, operation: Operation, request: Request, given: Mapping[str, Any]
    ) -> Response:
        after = request.headers.get("last-event-id") or given["after"]
        wait = given["wait"] and request.method != "HEAD"
        wanted = Wanted(operation.events, given["stream"] or None, after, wait)
        body = self._streams.body(wanted, lambda: allowed(request.scope))
        headers = {**NO_STORE, "x-accel-buffering": "no"}
        return StreamingResponse(body, media_type=EVENTS, headers=headers)

    async def _get_recent(self, _: Any, __: Any, given: Mapping[str, Any]) -> str:
        return self._live_state.recent(given["stream"])

    async def _get_history(self, _: Any, __: Any, given: Mapping[str, Any]) -> str | Response:
        if given["format"] == "json":
            return await self._history.page(given)
        if given["format"] == "csv":
            return await self._history.csv(given)
        return await self._history.parquet(given)

    async def _get_summary(self, _: Any, __: Any, given: Mapping[str, Any]) -> str:
        return await self._history.summary(given)

    async def _get_shares(self, _: Any, __: Any, given: Mapping[str, Any]) -> str:
        return await self._history.shares(given)

    async def _get_utterance_list(self, _: Any, __: Any, given: Mapping[str, Any]) -> str:
        return await self._history.utterance_list(given)

    async def _get_model_card(
        self, _: Operation, __: Request, given: Mapping[str, Any]
    ) -> Response:
        card = await run_in_threadpool(find_card, given["bundle"], bundle_folders(*self._cards))
        if card is None:
            raise RefusedError(404, "this machine has no model card of this bundle")
        return HTMLResponse(card)

    async def _get_alerts(self, *_: Any) -> messages.AlertsState:
        return await self._alerts.state()

    async def _post_alerts_test(
        self, _: Operation, request: Request, __: Any
    ) -> messages.AlertsState:
        return await self._alerts.test(await json_body(request))

    async def _get_openapi(self, *_: Any) -> Response:
        return FileResponse(DOCUMENT, media_type=JSON)

    async def _post_mute(self, _: Operation, request: Request, __: Any) -> messages.MuteAnswer:
        client = request.client.host if request.client is not None else "unknown"
        asked = mute_request(await json_body(request), f"page at {client}")
        if self._control is None:
            raise RefusedError(
                409, "this page cannot mute: its server was not started by the pipeline"
            )
        try:
            answer = await run_in_threadpool(ask, self._control, asked, MuteSet)
        except UserError as error:
            raise RefusedError(409, str(error)) from None
        return messages.MuteAnswer(answer.code == EXIT_OK, answer.text)


def _handler(name: str, *rooms: object) -> Handler:
    """The handler of an operation in the first room that has it."""
    found: Handler = next(getattr(room, name) for room in rooms if hasattr(room, name))
    return found


def mute_request(table: Any, by: str) -> SetMute:
    """The request to the supervisor.

    Raises:
        RefusedError: the body is no such request.
    """
    try:
        muted, seconds = table["muted"], table.get("seconds")
        known = type(muted) is bool and not set(table) - {"muted", "seconds"}
        timed = seconds is None or (
            type(seconds) in (int, float) and 1.0 <= seconds <= messages.LONGEST_MUTE_S
        )
    except (KeyError, TypeError, AttributeError):
        known = timed = False
    if not (known and timed):
        raise RefusedError(400, MUTE_BODY)
    return SetMute(muted, None if seconds is None else float(seconds), by)
