"""Serves the live page of a running pipeline, by default at http://127.0.0.1:8765.

It is a subscriber like any other program, on this or on another machine. An address beyond
loopback requires a token in the environment variable SEP_DASHBOARD__TOKEN.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import argparse
import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import zmq

from speech_emotion import __version__
from speech_emotion.common.client.flags import add_results_flags
from speech_emotion.common.client.results import Event, Status
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.api_keys import ApiKeys, default_key_file
from speech_emotion.common.security.curve import client_keys_of
from speech_emotion.common.security.exposure import (
    DEFAULT_LISTEN,
    check_base_url,
    check_host,
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
from speech_emotion.dashboard.access.audit_reports import AuditReports
from speech_emotion.dashboard.access.http_server import HttpServer, address_of
from speech_emotion.dashboard.access.middleware import AccessMiddleware
from speech_emotion.dashboard.access.tls import certificate_of
from speech_emotion.dashboard.api.events import STATES
from speech_emotion.dashboard.api.review import ReviewOperations
from speech_emotion.dashboard.api.settings import SettingsOperations
from speech_emotion.dashboard.live.event_log import EventLog
from speech_emotion.dashboard.live.feed import Feed
from speech_emotion.dashboard.live.live_state import RECENT_S, LiveState
from speech_emotion.dashboard.messages import Service
from speech_emotion.dashboard.server import PageServer

log = logging.getLogger("dashboard")

TURN_S = 0.1
STUCK_S = 2.0
"""The heartbeat stops when the feed's last turn is older than this."""
RENEWAL_S = 2.0
"""Interval at which the certificate files are looked at."""
TOKEN = "SEP_DASHBOARD__TOKEN"


async def serve(options: PageOptions, stop: StopRequest, heartbeat: HeartbeatSender | None) -> None:
    """Serve the page until a stop is requested.

    Raises:
        UserError: the address is in use, an endpoint is malformed, or the certificate is unusable.
    """
    tls = certificate_of(options.certificate, options.private_key)
    reports = AuditReports(options.control)
    review = ReviewOperations(options.review, options.control, reports.note)
    settings = SettingsOperations(options.settings, options.control)
    live_state = LiveState(
        Service(
            version=__version__,
            results=options.results,
            history=options.history is not None,
            mute=options.control is not None,
            review=review.mode,
            recent_s=RECENT_S,
            settings=settings.offered,
        )
    )
    events = EventLog()
    page_server = PageServer(
        *(live_state, events, options.history, options.bundle, options.control),
        *(review, settings),
    )

    def on_event(event: Event) -> None:
        review.hear(event.message, replay=event.replay)
        change = live_state.update(event)
        if change is not None and change.kind in STATES:
            events.notify()
        elif change is not None:
            events.append(change.kind, change.stream, change.data, time.monotonic())
        if heartbeat is not None:
            heartbeat.count += 1

    def on_statuses(statuses: dict[str, Status]) -> None:
        live_state.update_statuses(statuses)
        events.notify()

    host, _ = split_listen(options.listen)
    listener = listen_tcp(options.listen)
    access = AccessMiddleware(
        page_server.app,
        host,
        options.token,
        base_url=options.base_url,
        trusted_hosts=options.trusted_hosts,
        keys=ApiKeys(options.api_keys),
        tls=tls is not None,
        noted=reports.note,
    )
    server = HttpServer(access, tls)
    loop = asyncio.get_running_loop()
    feed = Feed(options.results, loop, on_event, on_statuses, options.client_keys)
    feed.start()
    serving = await server.begin(listener)
    try:
        log.info("the page is at %s", options.base_url or address_of(host, listener, tls))
        if options.base_url is not None and options.token is None:
            log.warning("the page has no token: the reverse proxy must restrict the access")
        if heartbeat is not None:
            heartbeat.state = "ready"
            heartbeat.beat(now=True)
        renewal = time.monotonic() + RENEWAL_S
        while not stop.requested and not serving.done():
            await asyncio.sleep(TURN_S)
            if tls is not None and time.monotonic() > renewal:
                renewal = time.monotonic() + RENEWAL_S
                tls.refresh()
            if heartbeat is not None and time.monotonic() - feed.last_turn < STUCK_S:
                heartbeat.counters["dashboard_malformed"] = feed.malformed
                heartbeat.counters["dashboard_lost"] = feed.lost
                heartbeat.counters["dashboard_events_missed"] = page_server.streams.missed
                heartbeat.beat()
    finally:
        events.close()
        server.end()
        await serving
        feed.stop()
        await review.close()
        reports.close()


def main(options: PageOptions, job: Job | None = None) -> int:
    """Serve the page until a stop is requested.

    Args:
        job: the job of the stage; None where it was started by hand.
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
        UserError: a flag or the token is invalid.
    """
    token = os.environ.get(TOKEN)
    try:
        if token is not None:
            check_token(token)
    except UserError as error:
        raise UserError(f"environment variable {TOKEN}: {error}") from None
    check_reach(check_listen(options.listen), token)
    if options.base_url is not None:
        check_base_url(options.base_url)
    if options.history is not None and not options.history.is_file():
        raise UserError(f"{options.history}: this history file does not exist")
    return PageOptions(
        results=options.results,
        listen=options.listen,
        token=token,
        client_keys=client_keys_of(options),
        history=options.history,
        bundle=options.bundle,
        base_url=options.base_url,
        trusted_hosts=tuple(map(check_host, options.trusted_host)),
        api_keys=options.api_keys or default_key_file(),
        certificate=options.certificate,
        private_key=options.private_key,
    )


def supervised() -> int:
    """Serve the page as a stage of the supervisor."""
    job = read_job(DashboardJob)
    return main(job.options, job)


if __name__ == "__main__":
    parser = base_parser("dashboard", __doc__ or "")
    add_results_flags(parser)
    parser.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="default: %(default)s"
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="address of the page behind a reverse proxy"
    )
    parser.add_argument(
        "--trusted-host",
        action="append",
        default=[],
        metavar="NAME",
        help="further host name of requests that are answered; can be repeated",
    )
    parser.add_argument(
        "--api-keys", type=Path, metavar="FILE", help="file of `speech-emotion api-key`"
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="PEM certificate chain, for https"
    )
    parser.add_argument(
        "--private-key", type=Path, metavar="FILE", help="PEM key of the certificate"
    )
    parser.add_argument(
        "--history", type=Path, metavar="FILE", help="SQLite file of --history; the page shows it"
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="bundle whose model card is shown"
    )
    run(
        "dashboard",
        parser,
        lambda given: supervised() if given.supervised else main(page_options(given)),
    )
