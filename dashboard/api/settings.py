"""Settings over HTTP: read, check, change, undo. The supervisor checks each file as at a start."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from speech_emotion.common.config.load import ConfigError, load_config
from speech_emotion.common.config.model import Config
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.internal import Reconfigure, Reconfigured
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.api.declared import RefusedError
from speech_emotion.dashboard.api.routing import json_body
from speech_emotion.dashboard.settings import fields
from speech_emotion.dashboard.settings.config_file import ChangedMeanwhileError, ConfigFile

BODY = 256 * 1024
"""Longest body of a change in bytes."""
WAIT_S = 10.0
"""Longest time in seconds that the supervisor may take to answer."""
NO_PIPELINE = "this page has no settings: its server was not started by the pipeline"
NO_FILE = (
    "the pipeline was started without a configuration file: start it with --config FILE to keep "
    "settings"
)
CHANGE_BODY = (
    'the body must be JSON such as {"version": "…", "changes": {"history.days": 7}}; keys: '
    + ", ".join(fields.EDITABLE)
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
        self._source = source
        self._control = control
        self._file = ConfigFile(source.file) if source is not None and source.file else None
        self._lock = asyncio.Lock()

    @property
    def offered(self) -> bool:
        """Whether there are settings to show."""
        return self._source is not None and self._control is not None

    async def get_settings(self, *_: Any) -> messages.Settings:
        """The settings, and whether they can be changed."""
        return await self._do(self._settings)

    async def post_settings_check(
        self, _: Any, request: Request, __: Any
    ) -> messages.SettingsAnswer:
        """Check a change; nothing is written."""
        version, changes = _change(await json_body(request, BODY))
        return await self._do(lambda: self._check(version, changes))

    async def post_settings_change(
        self, _: Any, request: Request, __: Any
    ) -> messages.SettingsAnswer:
        """Check a change, write it, and have the pipeline take it."""
        version, changes = _change(await json_body(request, BODY))
        return await self._do(lambda: self._write(version, changes, _client(request)))

    async def post_settings_undo(
        self, _: Any, request: Request, __: Any
    ) -> messages.SettingsAnswer:
        """Restore the file before the newest change, and have the pipeline take it."""
        body = await json_body(request)
        if (
            not isinstance(body, dict)
            or set(body) != {"version"}
            or not _is_version(body["version"])
        ):
            raise RefusedError(400, UNDO_BODY)
        return await self._do(lambda: self._undo(body["version"], _client(request)))

    async def _do(self, work: Callable[[], T]) -> T:
        """Work with files in a thread, one after another.

        Raises:
            RefusedError: there are no settings, or the file has changed.
        """
        if not self.offered:
            raise RefusedError(409, NO_PIPELINE)
        async with self._lock:
            try:
                return await run_in_threadpool(work)
            except UserError as error:
                raise RefusedError(409, str(error)) from None

    def _settings(self) -> messages.Settings:
        assert self._source is not None
        file, source = self._file, self._source
        problem: str | None = NO_FILE
        config: Config | None = None
        version, undo, waiting = "", None, list[str]()
        try:
            if file is not None:
                _, version = file.read()
                problem = file.trouble()
                undo = file.undoable(version)
            config = load_config(source.file, source.flags)
            waiting = self._ask(None, take=False).waiting
        except UserError as error:
            problem = str(error)
        return messages.Settings(
            file=str(source.file) if source.file is not None else None,
            problem=problem,
            version=version,
            values=fields.values(config) if config is not None else {},
            fields=fields.fields(source.flags) if config is not None else [],
            waiting=waiting,
            restart=restart_command(),
            undo=None if problem else undo,
        )

    def _changed(self, version: str, changes: Mapping[str, Any]) -> tuple[ConfigFile, str]:
        """The file, and its text with the changes."""
        assert self._source is not None
        if self._file is None:
            raise UserError(NO_FILE)
        text, now = self._file.read()
        if now != version:
            raise ChangedMeanwhileError("the configuration file has changed; load the page again")
        config = load_config(self._source.file, self._source.flags)
        whole = fields.with_addresses(changes, config)
        from speech_emotion.dashboard.settings.toml_text import changed

        return self._file, changed(text, whole, fields.row_defaults())

    def _check(self, version: str, changes: Mapping[str, Any]) -> messages.SettingsAnswer:
        def work() -> list[str]:
            _, text = self._changed(version, changes)
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                return self._ask(Path(file.name), take=False).waiting

        return self._answer(work)

    def _write(self, version: str, changes: Mapping[str, Any], by: str) -> messages.SettingsAnswer:
        def work() -> list[str]:
            file, text = self._changed(version, changes)
            file.write(text, version, lambda path: self._require(path))
            return self._ask(None, take=True, by=by).waiting

        return self._answer(work)

    def _undo(self, version: str, by: str) -> messages.SettingsAnswer:
        def work() -> list[str]:
            if self._file is None:
                raise UserError(NO_FILE)
            self._file.undo(version, lambda path: self._require(path))
            return self._ask(None, take=True, by=f"{by}, undo").waiting

        return self._answer(work)

    def _answer(self, work: Callable[[], list[str]]) -> messages.SettingsAnswer:
        """What became of a change; a value that is wrong is no refusal of the request."""
        try:
            return messages.SettingsAnswer(True, "", "", work())
        except ConfigError as error:
            return messages.SettingsAnswer(False, error.line, error.key, [])

    def _require(self, file: Path) -> None:
        self._ask(file, take=False)

    def _ask(self, file: Path | None, *, take: bool, by: str = "") -> Reconfigured:
        """The answer of the supervisor.

        Raises:
            ConfigError: the pipeline would not start with the configuration.
            UserError: it does not answer.
        """
        assert self._control is not None
        request = Reconfigure(str(file) if file is not None else None, take, by)
        answer = ask(self._control, request, Reconfigured, WAIT_S)
        if answer.code != EXIT_OK:
            raise ConfigError(answer.text, answer.key)
        return answer


def restart_command(cgroup: Path = Path("/proc/self/cgroup")) -> str | None:
    """The command that restarts the service of this process; None: it is in none."""
    try:
        unit = cgroup.read_text().strip().rpartition("/")[2]
    except OSError:
        return None
    own = unit.endswith(".service") and not unit.startswith("user@")
    return f"sudo systemctl restart {unit.removesuffix('.service')}" if own else None


def _change(body: Any) -> tuple[str, dict[str, Any]]:
    """Version and changes of a body.

    Raises:
        RefusedError: it is no change.
    """
    known = isinstance(body, dict) and set(body) == {"version", "changes"}
    if not known or not _is_version(body["version"]) or not fields.is_change(body["changes"]):
        raise RefusedError(400, CHANGE_BODY)
    return body["version"], body["changes"]


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 64


def _client(request: Request) -> str:
    return f"page at {request.client.host if request.client is not None else 'unknown'}"
