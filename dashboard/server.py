"""The application: the HTTP interface, and the files of the page, which uses nothing else."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles

from speech_emotion.dashboard.access.middleware import refusal
from speech_emotion.dashboard.api.declared import RefusedError
from speech_emotion.dashboard.api.events import EventStreams
from speech_emotion.dashboard.api.operations import BASE
from speech_emotion.dashboard.api.review import ReviewOperations
from speech_emotion.dashboard.api.routes import Api
from speech_emotion.dashboard.api.settings import SettingsOperations
from speech_emotion.dashboard.live.event_log import EventLog
from speech_emotion.dashboard.live.live_state import LiveState
from speech_emotion.dashboard.static_files import STATIC


class PageServer:
    """The application and its event streams.

    Args:
        live_state: the present.
        events: the newest events.
        history: the SQLite file, or None.
        bundle: folder of a bundle whose model card is served, besides the shipped ones.
        control: control socket of the supervisor, to mute; None: it cannot be muted from here.
        review: the handlers of `/review…`.
        settings: the handlers of `/settings…`.
    """

    def __init__(
        self,
        live_state: LiveState,
        events: EventLog,
        history: Path | None,
        bundle: Path | None,
        control: Path | None,
        review: ReviewOperations,
        settings: SettingsOperations,
    ) -> None:
        self.streams = EventStreams(events, live_state)
        api = Api(live_state, self.streams, history, bundle, control, review, settings)
        self.app = Starlette(
            routes=[
                Mount(BASE, app=Router(api.routes, redirect_slashes=False)),
                Route("/", _index),
                Mount("/", StaticFiles(directory=STATIC)),
            ],
            exception_handlers={RefusedError: _refused, HTTPException: _not_served},
        )


async def _index(_: Request) -> Response:
    return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refusal(request, error.status, error.text, error.headers)


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "there is nothing here" if error.status_code == 404 else str(error.detail)
    return refusal(request, error.status_code, text, error.headers)
