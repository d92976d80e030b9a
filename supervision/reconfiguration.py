"""Take changed settings while the pipeline runs: at `systemctl reload`, or from the page.

Taken at once is what changes no result: mute, alerts, how long something is kept. Their processes
are restarted with a new job; history and alerts get from the hub what they missed. Everything else
is taken at the next start, so that a stream has one operating point from its beginning to its end.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.config.load import HIDDEN, ConfigError, without_secrets
from speech_emotion.common.config.model import Config
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, EXIT_USER, UserError
from speech_emotion.common.stage.jobs import AlertsJob
from speech_emotion.common.wire.control_messages import Reconfigure, Reconfigured
from speech_emotion.supervision.bundle_choice import bundle_to_use
from speech_emotion.supervision.privacy.audit_events import note_setting
from speech_emotion.supervision.process_table import planned_processes
from speech_emotion.supervision.resources import Resources, check

log = logging.getLogger("settings")

TAKEN = {
    "mute": ("time_zone", "quiet_hours"),
    "history": ("days",),
    "outbox": ("give_up_h",),
    "review": ("queue", "hours", "max_mb"),
}
"""Table → its keys that are taken while the pipeline runs, beside all `alerts`."""
SWAPPED = "bundle"
"""Taken by a bundle swap."""


def with_taken(running: Config, wanted: Config) -> Config:
    """The running configuration with those of the wanted settings that are taken at once."""
    update: dict[str, Any] = {"alerts": wanted.alerts}
    for name, keys in TAKEN.items():
        table = getattr(wanted, name)
        part = {key: getattr(table, key) for key in keys}
        update[name] = getattr(running, name).model_copy(update=part)
    return running.model_copy(update=update)


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Key → its values in two configurations, where they differ; rules of alerts by name."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in Config.model_fields:
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine == theirs:
            continue
        if isinstance(mine, BaseModel):
            for key in type(mine).model_fields:
                pair = getattr(mine, key), getattr(theirs, key)
                if pair[0] != pair[1]:
                    found[f"{name}.{key}"] = pair
        elif name == "alerts":
            rules = [{rule.name: rule for rule in rows} for rows in (mine, theirs)]
            for rule in dict.fromkeys([*rules[0], *rules[1]]):
                if rules[0].get(rule) != rules[1].get(rule):
                    found[f"alerts.{rule}"] = rules[0].get(rule), rules[1].get(rule)
        else:
            found[name] = mine, theirs
    return found


class Reconfiguration:
    """Use from the supervisor's loop only.

    Args:
        running: the configuration that the pipeline was started with.
        load: loads the configuration as the start does; of another file where one is given.
    """

    def __init__(
        self, resources: Resources, running: Config, load: Callable[[Path | None], Config]
    ) -> None:
        self._resources = resources
        self._running = self._noted = running
        self._load = load

    def request(self, request: Reconfigure, *, ending: bool) -> Reconfigured:
        """Check a configuration, take one, or report what waits for the next start.

        Args:
            ending: whether the pipeline ends; nothing is taken then.
        """
        if ending:
            return Reconfigured(EXIT_FAULT, "the pipeline ends", "", [])
        try:
            if request.take:
                return Reconfigured(EXIT_OK, "", "", self.take(request.by))
            wanted = self._load(None) if request.file is None else self._checked(Path(request.file))
        except ConfigError as error:
            return Reconfigured(EXIT_USER, error.line, error.key, [])
        except UserError as error:
            return Reconfigured(EXIT_USER, str(error), "", [])
        return Reconfigured(EXIT_OK, "", "", self._waiting(wanted))

    def take(self, by: str) -> list[str]:
        """Take what the configuration says now; the keys that wait for the next start.

        Raises:
            UserError: the pipeline would not start with it; nothing was changed.
        """
        wanted = self._checked(None)
        shown = differences(without_secrets(self._noted), without_secrets(wanted))
        for key in differences(self._noted, wanted):
            note_setting(self._resources.audit, by, key, *shown.get(key, (HIDDEN, HIDDEN)))
        self._noted = wanted
        taken = with_taken(self._running, wanted)
        changed, waiting = [*differences(self._running, taken)], self._waiting(wanted)
        self._running = taken
        if changed:
            log.info("%s: taken (%s)", ", ".join(changed), by)
            self._apply(taken)
        if waiting:
            log.warning("%s: changed in the configuration; needs a restart", ", ".join(waiting))
        return waiting

    def _checked(self, file: Path | None) -> Config:
        config = self._load(file)
        check(config, load_bundle(bundle_to_use(config)), self._running)
        return config

    def _waiting(self, wanted: Config) -> list[str]:
        left = differences(with_taken(self._running, wanted), wanted)
        return [key for key in left if key != SWAPPED]

    def _apply(self, config: Config) -> None:
        resources, plan = self._resources, self._resources.plan
        resources.mute.use(config.mute)
        inside = config.model_copy(update={"results": plan.config.results})
        planned = {
            one.name: one
            for one in planned_processes(dataclasses.replace(plan, config=inside))
            if one.kind.renewed
        }
        for process in resources.processes:
            row = planned.pop(process.name, None)
            if row is not None:
                process.renew(row.job)
            elif isinstance(process.job, AlertsJob):
                process.renew(dataclasses.replace(process.job, rules=()))
        for row in planned.values():  # the first rule of an alert
            resources.processes.append(resources.managed(row))
