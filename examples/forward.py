"""Forwards the results of several boxes to one endpoint.

    python examples/forward.py --listen tcp://127.0.0.1:6000 tcp://kitchen:5555 tcp://hall:5555

Subscriptions go to the boxes and messages come back unchanged, through ZeroMQ's XSUB and XPUB
sockets. Each stream needs a unique name in the configuration of its box. With keys: --secret and,
for each box, its public key file after the endpoint: tcp://kitchen:5555=kitchen.key.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

try:
    import zmq
    from zmq.auth import load_certificate
except ModuleNotFoundError as error:
    print(f"forward: {error.name} is missing; pip install pyzmq", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--listen", default="tcp://127.0.0.1:6000", help="default: %(default)s")
    flags.add_argument("--secret", type=Path, help="own .key_secret file, if boxes require keys")
    flags.add_argument("boxes", nargs="+", metavar="ENDPOINT[=KEY]")
    arguments = flags.parse_args()
    path = Path(arguments.listen.removeprefix("ipc://"))
    if arguments.listen.startswith("ipc://") and path.exists() and not path.is_socket():
        # ZeroMQ would delete the file.
        flags.error(f"{path} exists and is no socket; choose another path")

    context = zmq.Context()
    boxes = context.socket(zmq.XSUB)
    boxes.setsockopt(zmq.HEARTBEAT_IVL, 5000)  # detects a box that lost its power
    boxes.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
    for box in arguments.boxes:
        endpoint, _, key = box.partition("=")
        if key:
            boxes.curve_serverkey = load_certificate(key)[0]
            boxes.curve_publickey, boxes.curve_secretkey = load_certificate(arguments.secret)
        boxes.connect(endpoint)
    readers = context.socket(zmq.XPUB)
    readers.setsockopt(zmq.XPUB_VERBOSE, 1)  # a late subscriber gets the last values as well
    readers.bind(arguments.listen)
    with contextlib.suppress(KeyboardInterrupt):
        zmq.proxy(boxes, readers)


if __name__ == "__main__":
    main()
