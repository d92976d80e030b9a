"""Prints a line when a voice has sounded a certain way, and when the pipeline is not well.

    python examples/alerts.py --emotion angry --confidence 0.7

It judges by utterances, which are steadier than windows, and tells the same thing of a stream at
most once a minute. What a voice sounds like is no proof of anything: see docs/PRIVACY.md.
"""

import argparse
import contextlib
import time

from speech_emotion.common.client.results import DEFAULT_ENDPOINT, Freshness, Results
from speech_emotion.common.wire.public import Utterance

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--endpoint", default=DEFAULT_ENDPOINT)
parser.add_argument("--emotion", default="angry", help="label to look for; default: %(default)s")
parser.add_argument("--confidence", type=float, default=0.6, help="at least; default: %(default)s")
parser.add_argument("--pause", type=float, default=60.0, metavar="S", help="between two alerts")
parser.add_argument("--patience", type=float, default=10.0, metavar="S", help="with bad health")
options = parser.parse_args()

told: dict[str, float] = {}
unwell_since: float | None = None


def tell(about: str, line: str) -> None:
    """Print a line, unless one about the same was printed a moment ago."""
    now = time.monotonic()
    if now - told.get(about, -options.pause) >= options.pause:
        told[about] = now
        print(time.strftime("%H:%M:%S"), line, flush=True)


with Results(options.endpoint) as results, contextlib.suppress(KeyboardInterrupt):
    while True:
        event = results.receive(timeout=0.5)
        if event is not None and not event.replay and isinstance(event.message, Utterance):
            said = event.message
            if said.emotion == options.emotion and said.confidence >= options.confidence:
                tell(said.stream, f"{said.stream}: {said.emotion}, {said.confidence:.0%} sure")
        status = results.status()
        if status.state is Freshness.FRESH:
            unwell_since = None
            told.pop("health", None)
        elif unwell_since is None:
            unwell_since = time.monotonic()
        elif time.monotonic() - unwell_since > options.patience:
            tell("health", f"pipeline {status.state.value}: {status.reason}")
