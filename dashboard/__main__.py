"""The live page of a running pipeline, at http://127.0.0.1:8765 unless told otherwise.

It subscribes like any other program, from this machine or another one. Beyond loopback it
wants a token, in the environment variable SEP_DASHBOARD__TOKEN.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
import zmq

from speech_emotion.common.client.results import DEFAULT_ENDPOINT, Event, Status
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import add_client_key_flags, client_keys_of
from speech_emotion.common.security.exposure import (
    DEFAULT_LISTEN,
    check_listen,
    check_reach,
    check_token,
    listen_tcp,
    split_listen,
)
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import DashboardJob, Job, PageOptions
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.common.wire.sockets import connect
from speech_emotion.dashboard.access import AccessMiddleware
from speech_emotion.dashboard.feed import Feed
from speech_emotion.dashboard.live_state import RECENT_S, LiveState
from speech_emotion.dashboard.server import Pages

log = logging.getLogger("dashboard")

TURN_S = 0.1
STUCK_S = 2.0
"""A feed that has not come round for so long is stuck; the heartbeat then stops."""
BACKLOG = 64
CONNECTIONS = 256
TOKEN = "SEP_DASHBOARD__TOKEN"


class Server(uvicorn.Server):
    """uvicorn, which leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: PageOptions, stop: StopRequest, heartbeat: HeartbeatSender | None) -> None:
    """Serve the page until a stop is requested.

    Raises:
        UserError: the address is taken, or an endpoint is malformed.
    """
    board = LiveState(
        {"endpoint": options.results, "history": options.history is not None, "recent_s": RECENT_S}
    )
    pages = Pages(board, options.history, options.bundle)

    def event(event: Event) -> None:
        pages.tell(board.take(event))
        if heartbeat is not None:
            heartbeat.count += 1

    def statuses(statuses: dict[str, Status]) -> None:
        pages.tell(board.statuses(statuses))

    host, _ = split_listen(options.listen)
    listener = listen_tcp(options.listen)
    server = Server(
        uvicorn.Config(
            AccessMiddleware(pages.app, host, options.token),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
    )
    loop = asyncio.get_running_loop()
    feed = Feed(options.results, loop, event, statuses, options.client_keys)
    feed.start()
    # Who runs a pipeline has no use for uvicorn's words about odd requests.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    serving = asyncio.create_task(server.serve([listener]))
    port = listener.getsockname()[1]
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        name = f"[{host}]" if ":" in host else host
        log.info("the page is at http://%s:%d", name, port)
        if heartbeat is not None:
            heartbeat.state = "ready"
            heartbeat.beat(now=True)
        while not stop.requested and not serving.done():
            await asyncio.sleep(TURN_S)
            if heartbeat is not None and time.monotonic() - feed.turned < STUCK_S:
                heartbeat.counters["dashboard_malformed"] = feed.malformed
                heartbeat.counters["dashboard_viewers_cut"] = pages.counters[
                    "dashboard_viewers_cut"
                ]
                heartbeat.beat()
    finally:
        # A page that reads nothing is cut off at the end, which is no error.
        logging.getLogger("uvicorn.error").disabled = True
        pages.close()
        server.should_exit = True
        await serving
        feed.stop()


def main(options: PageOptions, job: Job | None = None) -> int:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        job: the stage's job; None where it was started by hand.
    """
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub")) if job else None
    try:
        asyncio.run(serve(options, stop, heartbeat))
    finally:
        context.destroy(linger=0)
    return 0


def page_options(options: argparse.Namespace) -> PageOptions:
    """The options of the page from flags and environment.

    Raises:
        UserError: one of them is wrong.
    """
    token = os.environ.get(TOKEN)
    try:
        if token is not None:
            check_token(token)
    except UserError as error:
        raise UserError(f"environment variable {TOKEN}: {error}") from None
    check_reach(check_listen(options.listen), token)
    if options.history is not None and not options.history.is_file():
        raise UserError(f"{options.history}: no such history file")
    return PageOptions(
        results=options.results,
        listen=options.listen,
        token=token,
        client_keys=client_keys_of(options),
        history=options.history,
        bundle=options.bundle,
    )


def supervised() -> int:
    """Serve the page as a stage of the supervisor."""
    job = read_job(DashboardJob)
    return main(job.options, job)


if __name__ == "__main__":
    parser = base_parser("dashboard", __doc__ or "")
    parser.add_argument("--results", default=DEFAULT_ENDPOINT, help="default: %(default)s")
    add_client_key_flags(parser)
    parser.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument("--history", type=Path, metavar="FILE", help="history to look back into")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="where its model card is")
    arguments = parser.parse_args()
    run(
        "dashboard",
        lambda: supervised() if arguments.supervised else main(page_options(arguments)),
        arguments.profile,
    )
