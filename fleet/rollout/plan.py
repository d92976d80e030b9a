"""A roll-out in waves: which boxes are in which wave, and what follows from their reports. Pure."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from speech_emotion.common.errors import UserError
from speech_emotion.fleet.rollout.orders import (
    BACK,
    FAILED,
    TAKEN,
    TAKEN_BACK,
    TESTING,
    WITHDRAWN,
    Order,
    Report,
)

RUNNING, COMPLETE, STOPPED = STATES = ("running", "complete", "stopped")
WAVES = "1,10%,100%"
FINAL = (*FAILED, TAKEN, TAKEN_BACK, WITHDRAWN)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A roll-out.

    Attributes:
        number: greater than that of every one before.
        action: `use` or `back`.
        bundle, digest, object, size, sha256, watch_s, max_ms: as in `Order`.
        waves: names of boxes, `SITE.BOX`.
        wait_s: longest time in seconds until every box of a wave has reported.
        begun: number of waves that were begun.
        began: unix time at which the newest of them was begun.
        state: one of `STATES`.
        reason: why it was stopped.
    """

    number: int
    action: str
    bundle: str
    digest: str
    object: str
    size: int
    sha256: str
    watch_s: float
    max_ms: float
    waves: tuple[tuple[str, ...], ...]
    wait_s: float
    begun: int = 0
    began: float = 0.0
    state: str = RUNNING
    reason: str = ""

    @property
    def wave(self) -> tuple[str, ...]:
        """The boxes of the newest wave."""
        return self.waves[self.begun - 1] if self.begun else ()

    @property
    def ordered(self) -> list[str]:
        """The boxes of all waves that were begun."""
        return [name for wave in self.waves[: self.begun] for name in wave]

    def same_as(self, other: Plan) -> bool:
        """Whether both bring the same bundle to boxes, or take the same one back."""
        return (self.action, self.digest) == (other.action, other.digest)

    def order(self, name: str, action: str | None = None) -> Order:
        """The order for a box; its action is the plan's where none is given."""
        site, _, box = name.partition(".")
        return Order(
            *(self.number, site, box, action or self.action, self.bundle, self.digest),
            *(self.object, self.size, self.sha256, self.watch_s, self.max_ms),
        )

    def stopped(self, reason: str) -> Plan:
        """The plan, stopped."""
        return dataclasses.replace(self, state=STOPPED, reason=reason)


def encode(plan: Plan) -> bytes:
    """A plan as JSON."""
    return json.dumps(dataclasses.asdict(plan)).encode()


def decode(content: bytes) -> Plan:
    """The plan that `encode` wrote; raises ValueError, TypeError, KeyError for anything else."""
    table: dict[str, Any] = json.loads(content)
    table["waves"] = tuple(tuple(wave) for wave in table["waves"])
    return Plan(**table)


def waves_of(boxes: Sequence[str], text: str) -> tuple[tuple[str, ...], ...]:
    """The boxes of each wave.

    Args:
        boxes: in the order in which they get the bundle.
        text: how many have it after each wave, `1,10%,100%`: numbers, or shares of all boxes.

    Raises:
        UserError: the text is no such list.
    """
    ends = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,6})(%?)", part.strip())
        if found is None or int(found[1]) == 0 or (found[2] and int(found[1]) > 100):
            raise UserError(
                f"--waves {text!r}: {part.strip()!r} is neither a number of boxes nor 1% to 100%"
            )
        share = int(found[1]) / 100.0 * len(boxes)
        ends.append(min(len(boxes), math.ceil(share) if found[2] else int(found[1])))
    starts = [0, *ends]
    if any(before > after for before, after in zip(starts, ends, strict=False)):
        raise UserError(f"--waves {text!r}: each wave must reach more boxes than the one before")
    waves = (tuple(boxes[a:b]) for a, b in zip(starts, ends, strict=False))
    return tuple(wave for wave in waves if wave)


def judge(plan: Plan, reports: Mapping[str, Report], now: float) -> Plan:
    """What becomes of a running plan; the same one while there is nothing to do.

    Args:
        reports: box → its newest report.
        now: unix time in seconds.
    """
    own = {
        name: report
        for name in plan.ordered
        if (report := reports.get(name)) is not None and report.number == plan.number
    }
    where = f"wave {plan.begun} of {len(plan.waves)}"
    for name, report in own.items():
        if report.state in FAILED:
            return plan.stopped(f"{where}: {shown(name)}: {words(report)}")
    waiting = [name for name in plan.wave if name not in own or own[name].state not in FINAL]
    if waiting:
        if now - plan.began > plan.wait_s:
            more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
            text = f"has not reported within {plan.wait_s:g} s"
            return plan.stopped(f"{where}: {shown(waiting[0])}{more} {text}")
        return plan
    if plan.begun == len(plan.waves):
        return dataclasses.replace(plan, state=COMPLETE)
    return dataclasses.replace(plan, begun=plan.begun + 1, began=now)


def holders(plan: Plan, reports: Mapping[str, Report]) -> list[str]:
    """The boxes that have taken the bundle of a plan, or may be about to."""
    if plan.action == BACK:
        return []
    return [
        name
        for name in plan.ordered
        if (report := reports.get(name)) is not None
        and report.number == plan.number
        and report.state in (TAKEN, TESTING)
    ]


def words(report: Report | None) -> str:
    """A report in words."""
    if report is None:
        return "no report"
    return f"{report.state}: {report.reason}" if report.reason else report.state


def shown(name: str) -> str:
    """A box as `fleet status` shows it."""
    return name.replace(".", " ", 1)
