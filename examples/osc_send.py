"""Sends results as Open Sound Control messages, for stage light, sound and pictures.

    python examples/osc_send.py --to 192.168.1.20:9000

    /emotion/STREAM        label, confidence 0 to 1: each window with speech
    /level/STREAM          level in dBFS: each window
    /utterance/STREAM      label, confidence, seconds: each utterance that has ended
    /fresh/STREAM          1 while results are up to date, else 0: each second

OSC over UDP confirms nothing: a message can be lost on the way.
"""

import argparse
import contextlib
import sys
import time

try:
    from pythonosc.udp_client import SimpleUDPClient

    from speech_emotion import Freshness, Result, Results, Utterance
except ModuleNotFoundError as error:
    print(f"osc_send: {error.name} is missing; pip install -e '.[examples]'", file=sys.stderr)
    sys.exit(2)

EVERY_S = 1.0


def send(client: SimpleUDPClient, message: Result | Utterance) -> None:
    """Send a result or an utterance."""
    if isinstance(message, Utterance):
        seconds = (message.end - message.start) / message.rate
        values = [message.emotion, message.confidence, seconds]
        client.send_message(f"/utterance/{message.stream}", values)
        return
    client.send_message(f"/level/{message.stream}", message.rms_db)
    if message.emotion is not None and message.confidence is not None:
        client.send_message(f"/emotion/{message.stream}", [message.emotion, message.confidence])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="default: %(default)s")
    parser.add_argument("--to", default="127.0.0.1:9000", metavar="HOST:PORT")
    options = parser.parse_args()
    try:
        host, _, port = options.to.rpartition(":")
        target = SimpleUDPClient(host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        print(f"osc_send: --to {options.to!r} must be HOST:PORT ({error})", file=sys.stderr)
        sys.exit(2)
    streams: set[str] = set()
    due = 0.0
    with Results(options.endpoint) as results, target as client:
        while True:
            event = results.receive(timeout=0.25)
            if event is not None and not event.replay:
                match event.message:
                    case (Result() | Utterance()) as message:
                        streams.add(message.stream)
                        send(client, message)
            if time.monotonic() >= due:
                due = time.monotonic() + EVERY_S
                for stream in sorted(streams):
                    fresh = results.status(stream).state in (Freshness.FRESH, Freshness.DEGRADED)
                    client.send_message(f"/fresh/{stream}", int(fresh))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
