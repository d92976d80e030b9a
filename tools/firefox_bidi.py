"""Firefox for Playwright, which asks it for one command of WebDriver BiDi that it does not have.

Playwright sets the media features of each profile with `emulation.setMediaFeaturesOverride`, and
takes the error of Firefox 153 for a failure of the profile. This program takes the arguments that
Playwright gives to Firefox, starts it with them, passes all messages on, and answers that command
itself, without effect.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from functools import partial

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection
from websockets.sync.server import ServerConnection, serve

ABSENT = "emulation.setMediaFeaturesOverride"
LISTENING = "WebDriver BiDi listening on "


def pass_on(playwright: ServerConnection, address: str) -> None:
    """Connect Playwright to Firefox until one of them ends the connection."""
    assert playwright.request is not None
    path = playwright.request.path
    with connect(address + path, max_size=None, compression=None) as firefox:
        answers = threading.Thread(target=copy, args=(firefox, playwright))
        answers.start()
        with contextlib.suppress(ConnectionClosed):
            for message in playwright:
                asked = json.loads(message) if ABSENT in str(message) else {}
                if asked.get("method") == ABSENT:
                    answer = {"type": "success", "id": asked["id"], "result": {}}
                    playwright.send(json.dumps(answer))
                else:
                    firefox.send(message)
    answers.join()


def copy(source: Connection, to: Connection) -> None:
    with contextlib.suppress(ConnectionClosed):
        for message in source:
            to.send(message)
    to.close()


def main(executable: str, arguments: list[str]) -> int:
    process = subprocess.Popen([executable, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with contextlib.ExitStack() as stack:
        for line in process.stderr:
            if line.startswith(LISTENING):
                address = line.removeprefix(LISTENING).strip()
                server = stack.enter_context(
                    serve(
                        partial(pass_on, address=address),
                        *("127.0.0.1", 0),
                        max_size=None,
                        compression=None,
                    )
                )
                threading.Thread(target=server.serve_forever, daemon=True).start()
                line = f"{LISTENING}ws://127.0.0.1:{server.socket.getsockname()[1]}\n"
            print(line, end="", file=sys.stderr, flush=True)
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
