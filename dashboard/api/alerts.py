"""Alerts over HTTP: the alerts process is asked over its socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool

from speech_emotion.common.errors import UserError
from speech_emotion.common.stage.control import ALERTS, ask
from speech_emotion.common.wire.control_messages import AlertsState, AskAlerts
from speech_emotion.dashboard.api.declared import RefusedError

WAIT_S = 5.0
"""Longest time in seconds that the alerts process may take to answer."""
TEST_BODY = 'the body must be JSON such as {"rule": "anger"}'


class AlertOperations:
    """The answers about alerts.

    Args:
        control: control socket of the supervisor; None: this server was not started by one.
    """

    def __init__(self, control: Path | None) -> None:
        self._socket = control.with_name(ALERTS) if control is not None else None

    async def state(self, test: str | None = None) -> AlertsState:
        """The rules and the newest deliveries, after a test of a rule.

        Raises:
            RefusedError: there are no rules, or the alerts process does not answer.
        """
        if self._socket is None or not self._socket.exists():
            raise RefusedError(
                409, "this pipeline has no alerts; add [[alerts]] to its configuration"
            )
        try:
            return await run_in_threadpool(ask, self._socket, AskAlerts(test), AlertsState, WAIT_S)
        except UserError:
            raise RefusedError(409, "the alerts process does not answer; try again") from None

    async def test(self, body: Any) -> AlertsState:
        """Send a test of the rule that the body of a request names.

        Raises:
            RefusedError: there is no such rule, or the alerts process does not answer.
        """
        if not isinstance(body, dict) or set(body) != {"rule"} or type(body["rule"]) is not str:
            raise RefusedError(400, TEST_BODY)
        known = [rule.name for rule in (await self.state()).rules]
        if body["rule"] not in known:
            raise RefusedError(404, f"there is no such rule; configured: {', '.join(known)}")
        return await self.state(body["rule"])
