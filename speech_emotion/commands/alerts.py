"""`speech-emotion alerts`: rules and deliveries of a running pipeline, and a test."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, UserError, printable
from speech_emotion.common.stage.control import ALERTS, ask
from speech_emotion.common.wire.control_messages import (
    AlertRow,
    AlertsState,
    AskAlerts,
    DeliveryRow,
)
from speech_emotion.supervision.control_socket import find

WAIT_S = 5.0
"""Longest time in seconds that the alerts process may take to answer."""
TEST_S = 45.0
"""Longest time in seconds that the deliveries of a test may take."""
TURN_S = 0.2
SHOWN = 10
"""Deliveries that are printed."""


def main(words: list[str]) -> int:
    """Run `speech-emotion alerts`; returns the exit code, 1 where a test did not arrive.

    Raises:
        UserError: not exactly one pipeline runs, it has no rules, or the name is unknown.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion alerts",
        description="Show the rules of a running pipeline and its newest alerts, or send a test.",
    )
    flags.add_argument("--test", metavar="NAME", help="send a test of this rule to its addresses")
    flags.add_argument("--pid", type=int, help="process id of the supervisor, where several run")
    arguments = flags.parse_args(words)
    socket = find(arguments.pid).with_name(ALERTS)
    if not socket.exists():
        raise UserError("this pipeline has no alerts; add [[alerts]] to its configuration")
    state = ask(socket, AskAlerts(), AlertsState, WAIT_S)
    if arguments.test is not None:
        return send_test(socket, arguments.test, state)
    for rule in state.rules:
        print(printable(rule_line(rule)))
    for delivery in state.deliveries[:SHOWN]:
        print(printable(delivery_line(delivery)))
    return EXIT_OK


def send_test(socket: Path, name: str, state: AlertsState) -> int:
    """Send a test of a rule, and print what has become of it at each address.

    Raises:
        UserError: there is no such rule.
    """
    rules = {rule.name: rule for rule in state.rules}
    if name not in rules:
        raise UserError(f"no alert {name!r}; configured: {', '.join(rules)}")
    known = {row.id for row in state.deliveries}
    request, rows = AskAlerts(name), list[DeliveryRow]()
    deadline = time.monotonic() + TEST_S
    while time.monotonic() < deadline:
        state = ask(socket, request, AlertsState, WAIT_S)
        request = AskAlerts()
        rows = [one for one in state.deliveries if one.test and one.rule == name]
        rows = [one for one in rows if one.id not in known]
        if rows and all(one.state != "waiting" for one in rows):
            break
        time.sleep(TURN_S)
    for row in reversed(rows):
        print(printable(delivery_line(row)))
    return EXIT_OK if {row.state for row in rows} == {"delivered"} else EXIT_FAULT


def rule_line(rule: AlertRow) -> str:
    """A rule in one line."""
    line = f"{rule.name}: {rule.condition}, to {', '.join(rule.to)}"
    if rule.waiting:
        line += f"; {rule.waiting} waiting"
    if rule.quiet_until is not None:
        line += f"; quiet until {clock(rule.quiet_until)}"
    if rule.fired is not None:
        line += f"; last alert {clock(rule.fired)}"
    return line


def delivery_line(row: DeliveryRow) -> str:
    """A delivery in one line."""
    line = f"{clock(row.time)} {row.rule} to {row.to}: {row.state}"
    return f"{line} ({row.failure})" if row.failure else line


def clock(unix: float) -> str:
    """A unix time as local date and time."""
    return datetime.datetime.fromtimestamp(unix).isoformat(" ", timespec="seconds")
