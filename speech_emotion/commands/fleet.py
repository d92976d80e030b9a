"""`speech-emotion fleet`: configurations, streams, the store, the boxes, roll-outs of bundles."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from speech_emotion.commands.fleet_rollout import add_rollout_flags, roll_out
from speech_emotion.common.errors import EXIT_FAULT, EXIT_OK, UserError, needs_extra, printable
from speech_emotion.common.nats_server import NatsServer

T = TypeVar("T")

URL = "nats://127.0.0.1:4222"
EVERY_S = 10.0
TOKEN = "SEP_DASHBOARD__TOKEN"
"""Environment variable with the token of the page, as for the live page."""


def main(words: list[str]) -> int:
    """Run `speech-emotion fleet`; returns the exit code, 1 where `status` has found a fault.

    Raises:
        UserError: a flag, a file or the server cannot be used.
    """
    from speech_emotion.common.stage.main import LOG_FORMAT, Parser

    flags = Parser(
        prog="speech-emotion fleet",
        description="Many boxes and one centre, connected by NATS (docs/FLEET.md).",
    )
    verbs = flags.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    init = verbs.add_parser("init", help="write the configurations of centre and boxes")
    init.add_argument("plan", type=Path, help="TOML file that names centre and boxes")
    init.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="where they are written"
    )
    streams = verbs.add_parser("streams", help="make or change the stream of the centre")
    streams.add_argument("definition", type=Path, help="stream.json of `fleet init`")
    store = verbs.add_parser("store", help="write what arrives to Parquet files")
    store.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder of the files")
    store.add_argument("--once", action="store_true", help="end when everything is stored")
    store.add_argument(
        "--every",
        type=float,
        default=EVERY_S,
        metavar="S",
        help="longest time until a message is on the disk, in seconds; default: %(default)g",
    )
    status = verbs.add_parser("status", help="show which box has no contact, no sound, or is muted")
    status.add_argument("--bundle", metavar="ID", help="the bundle that every box should have")
    status.add_argument("--json", action="store_true", help="one JSON object per box")
    rollout = verbs.add_parser("rollout", help="bring a bundle to the boxes, in waves")
    add_rollout_flags(rollout)
    status.add_argument(
        "--serve", metavar="HOST:PORT", help="show them as a page, until it is stopped"
    )
    status.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM certificate chain of the page"
    )
    status.add_argument("--private-key", type=Path, metavar="FILE", help="PEM key of it")
    for verb in (streams, store, status, rollout):
        _add_server(verb)
    arguments = flags.parse_args(words)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    _need(("nats", "nkeys", *(("pyarrow",) if arguments.verb == "store" else ())))
    if arguments.verb == "rollout":
        return roll_out(arguments, _server(arguments))
    return {"init": _init, "streams": _streams, "store": _store, "status": _status}[arguments.verb](
        arguments
    )


def _add_server(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--url", default=URL, help="the centre; default: %(default)s")
    verb.add_argument("--seed", type=Path, metavar="FILE", help="store.nk of `fleet init`")
    verb.add_argument("--credentials", type=Path, metavar="FILE", help=".creds file instead")
    verb.add_argument("--ca", type=Path, metavar="FILE", help="authority of its certificate")


def _need(packages: tuple[str, ...], extra: str = "fleet") -> None:
    if any(importlib.util.find_spec(name) is None for name in packages):
        raise UserError(needs_extra(extra))


def _server(arguments: argparse.Namespace) -> NatsServer:
    from speech_emotion.common.config.nats import check_server

    url = check_server(arguments.url)
    return NatsServer(url, arguments.seed, arguments.credentials, arguments.ca)


def _reached(ask: Callable[[], Coroutine[Any, Any, T]], server: NatsServer) -> T:
    """The answer of a server; raises UserError where there is none."""
    from speech_emotion.fleet.server import FAULTS, cause

    try:
        return asyncio.run(ask())
    except FAULTS as error:
        raise UserError(f"{server.url}: {cause(error)}") from None


def _init(arguments: argparse.Namespace) -> int:
    from speech_emotion.fleet.configurations import write_files
    from speech_emotion.fleet.plan import load_plan

    for folder in write_files(load_plan(arguments.plan), arguments.to):
        print(folder)
    return EXIT_OK


def _streams(arguments: argparse.Namespace) -> int:
    from speech_emotion.fleet.server import open_client
    from speech_emotion.fleet.streams import apply

    async def run() -> bool:
        client = await open_client(server, "fleet streams")
        try:
            return await apply(client, wanted)
        finally:
            await client.close()

    server = _server(arguments)
    try:
        wanted = json.loads(arguments.definition.read_text())
        sources = len(wanted["sources"])
        name = wanted["name"]
    except OSError as error:
        raise UserError(f"{arguments.definition}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{arguments.definition}: is no stream.json of `fleet init`") from None
    made = _reached(run, server)
    print(f"stream {name} {'made' if made else 'is up to date'}: {sources} boxes with a server")
    return EXIT_OK


def _store(arguments: argparse.Namespace) -> int:
    from speech_emotion.fleet.server import FAULTS, cause
    from speech_emotion.fleet.store.reader import store

    if not 0.1 <= arguments.every <= 3600.0:
        raise UserError(f"--every {arguments.every:g} must be 0.1 to 3600")
    server = _server(arguments)
    try:
        counts, missing = store(server, arguments.to, arguments.every, once=arguments.once)
    except FAULTS as error:
        raise UserError(f"{server.url}: {cause(error)}") from None
    print(f"{arguments.to}: {counts}")
    for box, number in sorted(missing.items()):
        print(f"{box}: {number} messages are missing")
    return EXIT_OK


def _status(arguments: argparse.Namespace) -> int:
    import time

    from speech_emotion.fleet.status import ask, judge

    server = _server(arguments)
    if arguments.serve is not None:
        return _serve_status(arguments, server)
    lines = judge(_reached(lambda: ask(server), server), time.time(), arguments.bundle)
    for line in lines:
        if arguments.json:
            print(json.dumps(dataclasses.asdict(line)))
        else:
            print(printable(line.describe(time.time())))
    if not lines:
        print("no box has published yet", file=sys.stderr)
    return EXIT_FAULT if any(line.faults for line in lines) else EXIT_OK


def _serve_status(arguments: argparse.Namespace, server: NatsServer) -> int:
    """Serve the page of the fleet until SIGTERM or SIGINT."""
    import os
    import time

    from speech_emotion.common.security.exposure import check_listen, check_reach, check_token
    from speech_emotion.common.stage.signals import StopRequest

    _need(("starlette", "uvicorn"), "dashboard")
    from speech_emotion.dashboard.access.tls import certificate_of
    from speech_emotion.dashboard.fleet_page import serve
    from speech_emotion.fleet.server import FAULTS, cause
    from speech_emotion.fleet.status import ask, judge

    async def rows() -> list[dict[str, Any]]:
        try:
            lines = judge(await ask(server), time.time(), arguments.bundle)
        except FAULTS as error:
            raise UserError(f"{server.url}: {cause(error)}") from None
        return [dataclasses.asdict(line) for line in lines]

    token = os.environ.get(TOKEN)
    if token is not None:
        try:
            check_token(token)
        except UserError as error:
            raise UserError(f"environment variable {TOKEN}: {error}") from None
    check_reach(check_listen(arguments.serve), token, TOKEN)
    tls = certificate_of(arguments.certificate, arguments.private_key)
    asyncio.run(serve(rows, arguments.serve, token, tls, StopRequest()))
    return EXIT_OK
