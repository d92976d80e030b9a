"""Settings over HTTP: read, check, change, undo."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.errors import UserError
from speech_emotion.dashboard import messages, settings_messages
from speech_emotion.dashboard.api.declared import RefusedError
from speech_emotion.dashboard.api.routing import json_body

if TYPE_CHECKING:
    from speech_emotion.dashboard.settings.editor import SettingsEditor

BODY = 256 * 1024
"""Longest body of a change in bytes."""
NO_PIPELINE = "this page has no settings: its server was not started by the pipeline"
CHANGE_BODY = (
    'the body must be JSON such as {"version": "…", "changes": {"history.days": 7}}; keys: '
    + ", ".join(settings_messages.EDITABLE)
)
UNDO_BODY = 'the body must be JSON such as {"version": "…"}'

T = TypeVar("T")


class SettingsOperations:
    """The handlers of `/settings…`.

    Args:
        source: the configuration of the pipeline; None: no pipeline has started the page.
        control: control socket of the supervisor.
    """

    def __init__(self, source: ConfigSource | None, control: Path | None) -> None:
        self._given = (source, control) if source is not None and control is not None else None
        self._editor: SettingsEditor | None = None
        self._lock = asyncio.Lock()

    @property
    def offered(self) -> bool:
        """Whether there are settings to show."""
        return self._given is not None

    async def get_settings(self, *_: Any) -> messages.Settings:
        """The settings, and whether they can be changed."""
        return await self._do(lambda editor: editor.settings())

    async def post_settings_check(
        self, _: Any, request: Request, __: Any
    ) -> messages.SettingsAnswer:
        """Check a change; nothing is written."""
        asked = await _change(request)
        return await self._do(lambda editor: editor.check(asked.version, asked.changes))

    async def post_settings_change(
        self, _: Any, request: Request, __: Any
    ) -> messages.SettingsAnswer:
        """Check a change, write it, and have the pipeline take it."""
        asked, by = await _change(request), _client(request)
        return await self._do(lambda editor: editor.change(asked.version, asked.changes, by))

    async def post_settings_undo(
        self, _: Any, request: Request, __: Any
    ) -> messages.SettingsAnswer:
        """Restore the file before the newest change, and have the pipeline take it."""
        asked, by = settings_messages.undo_request(await json_body(request)), _client(request)
        if asked is None:
            raise RefusedError(400, UNDO_BODY)
        version = asked.version
        return await self._do(lambda editor: editor.undo(version, by))

    async def _do(self, work: Callable[[SettingsEditor], T]) -> T:
        """Work with the file in a thread, one request after another.

        Raises:
            RefusedError: there are no settings, or the file cannot be used.
        """
        if self._given is None:
            raise RefusedError(409, NO_PIPELINE)
        source, control = self._given

        def in_thread() -> T:
            if self._editor is None:
                # It loads the model of the configuration, which nothing else here needs.
                from speech_emotion.dashboard.settings.editor import SettingsEditor

                self._editor = SettingsEditor(source, control)
            return work(self._editor)

        async with self._lock:
            try:
                return await run_in_threadpool(in_thread)
            except UserError as error:
                raise RefusedError(409, str(error)) from None


async def _change(request: Request) -> messages.SettingsChange:
    """The change in the body of a request.

    Raises:
        RefusedError: it is none.
    """
    asked = settings_messages.change_request(await json_body(request, BODY))
    if asked is None:
        raise RefusedError(400, CHANGE_BODY)
    return asked


def _client(request: Request) -> str:
    return f"page at {request.client.host if request.client is not None else 'unknown'}"
