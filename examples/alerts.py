"""Prints a line when an utterance has a certain emotion, and when the pipeline has a fault.

    python examples/alerts.py --emotion angry --confidence 0.7

It uses utterances, which are steadier than windows, and repeats an alert of a stream after a
minute at the earliest. The sound of a voice is no proof of an emotion: see docs/PRIVACY.md.
"""

import argparse
import contextlib
import sys
import time

try:
    from speech_emotion import Freshness, Info, Results, Utterance
except ModuleNotFoundError as error:
    print(f"alerts: {error.name} is missing; pip install -e .", file=sys.stderr)
    sys.exit(2)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="default: %(default)s")
parser.add_argument("--emotion", default="angry", help="label of the alert; default: %(default)s")
parser.add_argument(
    "--confidence", type=float, default=0.6, help="lowest confidence; default: %(default)s"
)
parser.add_argument(
    "--pause", type=float, default=60.0, metavar="S", help="shortest time between two equal alerts"
)
parser.add_argument(
    "--patience", type=float, default=10.0, metavar="S", help="duration of a fault before its alert"
)
options = parser.parse_args()
if not 0.0 <= options.confidence <= 1.0:
    parser.error("--confidence must be 0 to 1")

last_alerts: dict[str, float] = {}
fault_since: float | None = None


def alert(subject: str, line: str) -> None:
    """Print a line, unless the last one of this subject is less than `--pause` old."""
    now = time.monotonic()
    if now - last_alerts.get(subject, -options.pause) >= options.pause:
        last_alerts[subject] = now
        print(time.strftime("%H:%M:%S"), line, flush=True)


with Results(options.endpoint) as results, contextlib.suppress(KeyboardInterrupt):
    while True:
        event = results.receive(timeout=0.5)
        message = None if event is None else event.message
        if isinstance(message, Info) and options.emotion not in (*message.labels, "uncertain"):
            known = ", ".join(message.labels)
            alert(
                f"labels of {message.stream}",
                f"{message.stream}: the bundle has no label {options.emotion!r}; it has {known}",
            )
        if event is not None and not event.replay and isinstance(message, Utterance):
            utterance = message
            if utterance.emotion == options.emotion and utterance.confidence >= options.confidence:
                alert(
                    utterance.stream,
                    f"{utterance.stream}: {utterance.emotion}, {utterance.confidence:.0%} sure",
                )
        status = results.status()
        if status.state is Freshness.FRESH:
            fault_since = None
            last_alerts.pop("health", None)
        elif fault_since is None:
            fault_since = time.monotonic()
        elif time.monotonic() - fault_since > options.patience:
            alert("health", f"pipeline {status.state.value}: {status.reason}")
