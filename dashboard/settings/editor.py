"""Read, check, change and undo settings. The supervisor checks each file as at a start."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speech_emotion.common.config.load import ConfigError, load_config
from speech_emotion.common.config.model import Config
from speech_emotion.common.config_source import ConfigSource
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.stage.control import ask
from speech_emotion.common.wire.control_messages import Reconfigure, Reconfigured
from speech_emotion.dashboard.settings import fields
from speech_emotion.dashboard.settings.config_file import ChangedMeanwhileError, ConfigFile
from speech_emotion.dashboard.settings.toml_text import changed
from speech_emotion.dashboard.settings_messages import Settings, SettingsAnswer

WAIT_S = 10.0
"""Longest time in seconds that the supervisor may take to answer."""
NO_FILE = (
    "the pipeline was started without a configuration file: start it with --config FILE to keep "
    "settings"
)


class SettingsEditor:
    """Use it from one thread at a time. Each method raises UserError where there is no such file,
    where it has changed, cannot be written, or the supervisor does not answer.

    Args:
        source: the configuration of the pipeline.
        control: control socket of the supervisor.
    """

    def __init__(self, source: ConfigSource, control: Path) -> None:
        self._source = source
        self._control = control
        self._file = ConfigFile(source.file) if source.file is not None else None

    def settings(self) -> Settings:
        """The settings, and whether they can be changed."""
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
        return Settings(
            file=str(source.file) if source.file is not None else None,
            problem=problem,
            version=version,
            values=fields.values(config) if config is not None else {},
            fields=fields.fields(source.flags) if config is not None else [],
            waiting=waiting,
            restart=restart_command(),
            undo=None if problem else undo,
        )

    def check(self, version: str, changes: Mapping[str, Any]) -> SettingsAnswer:
        """Check a change; nothing is written."""

        def work() -> list[str]:
            text = self._changed(version, changes)
            with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(text)
                file.flush()
                return self._ask(Path(file.name), take=False).waiting

        return _answer(work)

    def change(self, version: str, changes: Mapping[str, Any], by: str) -> SettingsAnswer:
        """Check a change, write it, and have the pipeline take it."""

        def work() -> list[str]:
            text = self._changed(version, changes)
            self._existing().write(text, version, self._require)
            return self._ask(None, take=True, by=by).waiting

        return _answer(work)

    def undo(self, version: str, by: str) -> SettingsAnswer:
        """Restore the file before the newest change, and have the pipeline take it."""

        def work() -> list[str]:
            self._existing().undo(version, self._require)
            return self._ask(None, take=True, by=f"{by}, undo").waiting

        return _answer(work)

    def _existing(self) -> ConfigFile:
        if self._file is None:
            raise UserError(NO_FILE)
        return self._file

    def _changed(self, version: str, changes: Mapping[str, Any]) -> str:
        """The text of the file with changes."""
        text, now = self._existing().read()
        if now != version:
            raise ChangedMeanwhileError("the configuration file has changed; load the page again")
        config = load_config(self._source.file, self._source.flags)
        return changed(text, fields.with_addresses(changes, config), fields.row_defaults())

    def _require(self, file: Path) -> None:
        self._ask(file, take=False)

    def _ask(self, file: Path | None, *, take: bool, by: str = "") -> Reconfigured:
        """The answer of the supervisor.

        Raises:
            ConfigError: the pipeline would not start with the configuration.
            UserError: it does not answer.
        """
        request = Reconfigure(str(file) if file is not None else None, take, by)
        answer = ask(self._control, request, Reconfigured, WAIT_S)
        if answer.code != EXIT_OK:
            raise ConfigError(answer.text, answer.key)
        return answer


def _answer(work: Callable[[], list[str]]) -> SettingsAnswer:
    """What became of a change; a value that is wrong is no refusal of the request."""
    try:
        return SettingsAnswer(True, "", "", work())
    except ConfigError as error:
        return SettingsAnswer(False, error.line, error.key, [])


def restart_command(cgroup: Path = Path("/proc/self/cgroup")) -> str | None:
    """The command that restarts the service of this process; None: it is in none."""
    try:
        unit = cgroup.read_text().strip().rpartition("/")[2]
    except OSError:
        return None
    own = unit.endswith(".service") and not unit.startswith("user@")
    return f"sudo systemctl restart {unit.removesuffix('.service')}" if own else None
