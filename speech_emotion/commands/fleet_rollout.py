"""`speech-emotion fleet rollout`: bring a bundle to the boxes of a fleet, in waves."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speech_emotion.commands.mute import seconds_of
from speech_emotion.common.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_OK, UserError, printable
from speech_emotion.common.nats_server import NatsServer

if TYPE_CHECKING:
    from speech_emotion.fleet.rollout.centre import Centre
    from speech_emotion.fleet.rollout.orders import Report
    from speech_emotion.fleet.rollout.plan import Plan

T = TypeVar("T")
EPILOG = """\
A folder: its bundle is brought to the boxes. status: how far it is. stop: begin no further wave.
back: the boxes that have taken it use the bundle before it again."""
FIRST_NUMBERS = 1 << 40
"""Numbers of reports from here on are made up: a box cannot use up the numbers of all others."""


def add_rollout_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of `fleet rollout` but those of the server."""
    flags.epilog = EPILOG
    flags.add_argument("what", metavar="DIR|status|stop|back", help="folder of a bundle, or a verb")
    flags.add_argument(
        "--waves",
        metavar="LIST",
        help="how many boxes have it after each wave; default: 1,10%%,100%%; back: 100%%",
    )
    flags.add_argument(
        "--wait",
        default="10m",
        metavar="LENGTH",
        help="longest time until all boxes of a wave have reported; default: %(default)s",
    )
    flags.add_argument(
        "--watch",
        default="1m",
        metavar="LENGTH",
        help="how long each box observes itself with the bundle; default: %(default)s",
    )
    flags.add_argument(
        "--max-ms",
        type=float,
        default=1000.0,
        metavar="MS",
        help="greatest median latency of results then; default: %(default)g",
    )
    flags.add_argument(
        "--first", action="append", default=[], metavar="SITE.BOX", help="a box of the first wave"
    )
    flags.add_argument(
        "--key", type=Path, metavar="FILE", help="rollout.nk; default: beside the file of --seed"
    )
    flags.add_argument("--json", action="store_true", help="status: one JSON object")


def roll_out(arguments: argparse.Namespace, server: NatsServer) -> int:
    """Run `speech-emotion fleet rollout`; returns the exit code, 1 where it was stopped.

    Raises:
        UserError: a flag, a file or the server cannot be used.
    """
    from speech_emotion.fleet.server import FAULTS, cause

    verbs = {"status": _status, "stop": _stop, "back": _back}
    try:
        return verbs.get(arguments.what, _bring)(arguments, server)
    except FAULTS as error:
        raise UserError(f"{server.url}: {cause(error)}") from None
    except KeyboardInterrupt:
        _say("no further wave is begun; the same command continues, `fleet rollout stop` ends it")
        return EXIT_INTERRUPTED


def _bring(arguments: argparse.Namespace, server: NatsServer) -> int:
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.fleet.rollout.archive import pack
    from speech_emotion.fleet.rollout.centre import archive_name
    from speech_emotion.fleet.rollout.orders import USE
    from speech_emotion.fleet.rollout.plan import WAVES, Plan, waves_of

    bundle = load_bundle(Path(arguments.what))
    content = pack(bundle)
    wait_s, watch_s = _times(arguments)
    seed = _seed(arguments)
    draft = Plan(
        *(0, USE, bundle.id, bundle.digest, "0", len(content), archive_name(content)),
        *(watch_s, arguments.max_ms, (), wait_s),
    )

    async def begin(centre: Centre) -> Plan:
        present, revision = await centre.plan()
        if (going := _going(present, draft)) is not None:
            return going
        reports = await centre.reports()
        names = await _boxes(server, reports, arguments.first)
        waves = waves_of(names, arguments.waves or WAVES)
        object = await centre.upload(draft.sha256, content)
        plan = dataclasses.replace(
            draft, number=_next_number(present, reports), waves=waves, object=object
        )
        await centre.write(plan, revision)
        return plan

    return _drive(server, _with(server, begin), seed)


def _back(arguments: argparse.Namespace, server: NatsServer) -> int:
    from speech_emotion.fleet.rollout.orders import BACK
    from speech_emotion.fleet.rollout.plan import holders, waves_of

    wait_s, watch_s = _times(arguments)
    seed = _seed(arguments)

    async def begin(centre: Centre) -> Plan:
        present, revision = await centre.plan()
        if present is None:
            raise UserError("there was no roll-out yet")
        draft = dataclasses.replace(present, action=BACK, wait_s=wait_s, watch_s=watch_s)
        if (going := _going(present, draft)) is not None:
            return going
        reports = await centre.reports()
        names = holders(present, reports)
        if not names:
            raise UserError(f"no box has taken {present.bundle} in roll-out {present.number}")
        number, waves = _next_number(present, reports), waves_of(names, arguments.waves or "100%")
        plan = dataclasses.replace(
            draft, number=number, waves=waves, begun=0, began=0.0, state="running", reason=""
        )
        await centre.write(plan, revision)
        return plan

    return _drive(server, _with(server, begin), seed)


def _stop(arguments: argparse.Namespace, server: NatsServer) -> int:
    from speech_emotion.fleet.rollout.centre import withdraw
    from speech_emotion.fleet.rollout.plan import RUNNING, STOPPED

    seed = _seed(arguments)

    async def stop(centre: Centre) -> Plan:
        plan, revision = await centre.plan()
        if plan is None:
            raise UserError("there was no roll-out yet")
        if plan.state == RUNNING:
            plan = plan.stopped("by hand")
            await centre.write(plan, revision)
        if plan.state == STOPPED:
            await withdraw(centre, plan, await centre.reports(), seed)
        return plan

    _say(_headline(asyncio.run(_with(server, stop))))
    return EXIT_OK


def _status(arguments: argparse.Namespace, server: NatsServer) -> int:
    from speech_emotion.fleet.rollout.plan import STOPPED, shown, words

    async def ask(centre: Centre) -> tuple[Plan | None, dict[str, Report]]:
        return (await centre.plan())[0], await centre.reports()

    plan, reports = asyncio.run(_with(server, ask))
    if plan is None:
        print("there was no roll-out yet", file=sys.stderr)
        return EXIT_OK
    own = {name: one for name, one in reports.items() if one.number == plan.number}
    if arguments.json:
        boxes = {name: dataclasses.asdict(one) for name, one in own.items()}
        print(json.dumps({**dataclasses.asdict(plan), "boxes": boxes}))
    else:
        _say(_headline(plan))
        for number, wave in enumerate(plan.waves, 1):
            for name in wave:
                begun = words(own.get(name)) if number <= plan.begun else "not begun"
                _say(f"wave {number}: {shown(name)}: {begun}")
    return EXIT_FAULT if plan.state == STOPPED else EXIT_OK


# Parts ----------------------------------------------------------------------------------------


async def _with(server: NatsServer, act: Any) -> Any:
    """What a function returns that is given a connection to the centre."""
    from speech_emotion.fleet.rollout.centre import Centre

    async with Centre.opened(server) as centre:
        return await act(centre)


def _drive(server: NatsServer, begin: Coroutine[Any, Any, Plan], seed: bytes) -> int:
    from speech_emotion.fleet.rollout.centre import drive
    from speech_emotion.fleet.rollout.plan import COMPLETE, holders

    plan = asyncio.run(begin)
    boxes = sum(map(len, plan.waves))
    _say(f"{_headline(plan)}; boxes: {boxes}, waves: {len(plan.waves)}")
    plan, reports = asyncio.run(drive(server, plan.number, seed, _say))
    _say(_headline(plan))
    if plan.state == COMPLETE:
        return EXIT_OK
    if left := len(plan.waves) - plan.begun:
        _say(f"waves not begun: {left}")
    if held := holders(plan, reports):
        _say(f"boxes with {plan.bundle}: {len(held)}; `fleet rollout back` takes it back")
    return EXIT_FAULT


def _going(present: Plan | None, wanted: Plan) -> Plan | None:
    """The running plan, where the same command is given again; None where none runs.

    Raises:
        UserError: another one runs.
    """
    from speech_emotion.fleet.rollout.plan import RUNNING

    if present is None or present.state != RUNNING:
        return None
    if present.same_as(wanted):
        return present
    raise UserError(
        f"{_headline(present)}; continue it with its own command, or stop it: fleet rollout stop"
    )


async def _boxes(server: NatsServer, reports: dict[str, Report], first: Sequence[str]) -> list[str]:
    """The boxes that take bundles and are in contact, those of `--first` first.

    Raises:
        UserError: there is none, or one of `--first` is not among them.
    """
    from speech_emotion.fleet.rollout.orders import OFF
    from speech_emotion.fleet.rollout.plan import shown
    from speech_emotion.fleet.status import SILENT_S, ask

    names, left_out = [], {}
    for box in await ask(server):
        name = f"{box.site}.{box.box}"
        if box.age_s > SILENT_S:
            left_out[name] = "no contact"
        elif name not in reports or reports[name].state == OFF:
            left_out[name] = "it takes no bundles (nats.rollout)"
        else:
            names.append(name)
    for name, why in left_out.items():
        _say(f"left out: {shown(name)}: {why}")
    for name in first:
        if name not in names:
            raise UserError(f"--first {name}: {left_out.get(name, 'there is no such box')}")
    if not names:
        raise UserError("no box takes bundles; set `rollout = true` in the plan of `fleet init`")
    return [*dict.fromkeys(first), *(name for name in names if name not in first)]


def _next_number(present: Plan | None, reports: dict[str, Report]) -> int:
    """A number that no box has seen, also where the centre was made anew."""
    seen = (one.number for one in reports.values() if one.number < FIRST_NUMBERS)
    return 1 + max((0 if present is None else present.number), *seen, 0)


def _times(arguments: argparse.Namespace) -> tuple[float, float]:
    """The lengths of `--wait` and `--watch` in seconds."""
    wait_s = seconds_of(arguments.wait, "--wait")
    watch_s = seconds_of(arguments.watch, "--watch")
    if wait_s <= watch_s:
        raise UserError(f"--wait {arguments.wait} must be longer than --watch {arguments.watch}")
    if not 1.0 <= arguments.max_ms <= 600_000.0:
        raise UserError(f"--max-ms {arguments.max_ms:g} must be 1 to 600000")
    return wait_s, watch_s


def _seed(arguments: argparse.Namespace) -> bytes:
    """The 32 bytes of the key that signs orders."""
    import nkeys

    path = arguments.key or (arguments.seed and arguments.seed.with_name("rollout.nk"))
    if path is None:
        raise UserError("--key is missing: the file rollout.nk of `fleet init`")
    try:
        _, raw = nkeys.decode_seed(bytearray(path.read_bytes().strip()))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); see --key") from None
    except Exception:  # the library raises its own errors and those of base64
        raise UserError(f"{path}: holds no seed of an NKey") from None
    return bytes(raw)


def _headline(plan: Plan) -> str:
    from speech_emotion.fleet.rollout.orders import BACK

    what = "back from" if plan.action == BACK else "to"
    text = f"roll-out {plan.number} {what} {plan.bundle}: {plan.state}"
    return f"{text}: {plan.reason}" if plan.reason else text


def _say(line: str) -> None:
    try:
        print(printable(line), flush=True)
    except OSError as error:  # no fault of the server
        raise UserError(f"the output cannot be written ({error.strerror})") from None
