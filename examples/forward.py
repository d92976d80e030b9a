"""Forward many boxes to one endpoint, so that a program needs to know only that one.

    python examples/forward.py --listen tcp://127.0.0.1:6000 tcp://kitchen:5555 tcp://hall:5555

Subscriptions travel to the boxes and messages back, unseen and unchanged: ZeroMQ's XSUB and XPUB,
with nothing in between. Give each stream a name of its own in its box's configuration. With
keys: --secret and, for each box, a file NAME.key beside its endpoint: tcp://kitchen:5555=kitchen.key.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import zmq
from zmq.auth import load_certificate


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--listen", default="tcp://127.0.0.1:6000", help="default: %(default)s")
    flags.add_argument("--secret", type=Path, help="own .key_secret file, where boxes want keys")
    flags.add_argument("boxes", nargs="+", metavar="ENDPOINT[=KEY]")
    arguments = flags.parse_args()

    context = zmq.Context()
    boxes = context.socket(zmq.XSUB)
    boxes.setsockopt(zmq.HEARTBEAT_IVL, 5000)  # a box that lost its power never says goodbye
    boxes.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
    for box in arguments.boxes:
        endpoint, _, key = box.partition("=")
        if key:
            boxes.curve_serverkey = load_certificate(key)[0]
            boxes.curve_publickey, boxes.curve_secretkey = load_certificate(arguments.secret)
        boxes.connect(endpoint)
    readers = context.socket(zmq.XPUB)
    readers.setsockopt(zmq.XPUB_VERBOSE, 1)  # who comes late gets the last values from the boxes
    readers.bind(arguments.listen)
    with contextlib.suppress(KeyboardInterrupt):
        zmq.proxy(boxes, readers)


if __name__ == "__main__":
    main()
