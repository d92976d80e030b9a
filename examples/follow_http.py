"""Print utterances from the HTTP interface, and continue after a lost connection.

    python examples/follow_http.py http://box:8765 [KEY]

The standard library is enough. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator


def events(url: str, key: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Kind and data of each event, without end: a new connection goes on where the last one was."""
    place = None
    while True:
        request = urllib.request.Request(url)
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        if place is not None:
            request.add_header("Last-Event-ID", place)
        try:
            with urllib.request.urlopen(request, timeout=30.0) as response:
                kind = "message"
                for line in response:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if name == "id":
                        place = value
                    elif name == "event":
                        kind = value
                    elif name == "data":
                        yield kind, json.loads(value)
        except urllib.error.HTTPError as error:
            sys.exit(f"{url}: {error.code} {error.read().decode()}")
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)  # urllib puts the cause into its own error
            text = getattr(reason, "strerror", None) or reason
            print(f"{url}: {text}; trying again", file=sys.stderr)
        time.sleep(1.0)


def main() -> None:
    """Print until Ctrl-C."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8765", help="of the page")
    parser.add_argument("key", nargs="?", help="made by `speech-emotion api-key add`")
    given = parser.parse_args()
    base, key = given.url, given.key
    for kind, data in events(f"{base.rstrip('/')}/api/v1/utterances", key):
        if kind == "gap":
            print(f"-- events are missing ({data['missed'] or 'unknown number'}): {data['reason']}")
        else:
            print(f"{data['stream']}  {data['emotion']}  {data['confidence']:.0%}", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
