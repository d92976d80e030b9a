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
from collections.abc import Iterable, Iterator

CUT = "the answer was cut off"
"""Any end of an answer is one: the server sends events without end."""


def events(url: str, key: str | None) -> Iterator[tuple[str, dict[str, object]]]:
    """Kind and data of each event, without end: a new connection goes on where the last one was."""
    place = ""
    while True:
        text = CUT
        try:
            with answer(url, key, place) as response:
                for fields in complete(response):
                    place = fields.get("id", place)
                    if "data" in fields:
                        yield fields.get("event", "message"), json.loads(fields["data"])
        except (http.client.IncompleteRead, http.client.BadStatusLine):
            pass
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)  # urllib puts the cause into its own error
            text = getattr(reason, "strerror", None) or reason
        print(f"{url}: {text}; trying again", file=sys.stderr)
        time.sleep(1.0)


def answer(url: str, key: str | None, place: str) -> http.client.HTTPResponse:
    """The answer with the events after `place`; ends the program if the request is refused."""
    request = urllib.request.Request(url)
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    if place:
        request.add_header("Last-Event-ID", place)
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=30.0)
        return response
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code} {error.read().decode()}")


def complete(lines: Iterable[bytes]) -> Iterator[dict[str, str]]:
    """Fields of each event that has arrived to its end, which is an empty line."""
    fields = {}
    for line in lines:
        if line == b"\n":
            yield fields
            fields = {}
        elif line.endswith(b"\n"):
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value


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
