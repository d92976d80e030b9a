"""`speech-emotion api-key`: keys of programs that may read the HTTP interface."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.security.api_keys import (
    add_api_key,
    default_key_file,
    load_api_keys,
    remove_api_key,
)


def main(words: list[str]) -> int:
    """Run `speech-emotion api-key`; returns the exit code.

    Raises:
        UserError: the name or the file cannot be used.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion api-key",
        description="Keys of programs that may read the HTTP interface; they can change nothing. "
        "A running page obeys at once.",
    )
    flags.add_argument("action", choices=("add", "list", "remove"))
    flags.add_argument("name", nargs="?", metavar="NAME", help="whose key it is")
    flags.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="file of the keys (dashboard.api_keys); default: api_keys.json in the state folder",
    )
    arguments = flags.parse_args(words)
    file: Path = arguments.file or default_key_file()
    if arguments.action == "list":
        for key in load_api_keys(file):
            day = time.strftime("%Y-%m-%d", time.localtime(key.created))
            print(f"{key.name}  {key.scope}  {day}")
        return EXIT_OK
    if arguments.name is None:
        raise UserError(f"name the key: speech-emotion api-key {arguments.action} NAME")
    if arguments.action == "remove":
        remove_api_key(file, arguments.name)
        return EXIT_OK
    print(add_api_key(file, arguments.name))
    print("this key is shown once and not kept", file=sys.stderr)
    return EXIT_OK
