"""`speech-emotion keygen`: make a key pair for a box or for a client."""

from __future__ import annotations

import re
from pathlib import Path

from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.security.curve import NAME, make_keys


def main(words: list[str]) -> int:
    """`speech-emotion keygen`; an exit code.

    Raises:
        UserError: the name is malformed, or a file exists.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion keygen",
        description="Makes a pair of keys, for a box or for a program that connects to one.",
    )
    flags.add_argument("name", help="of the box or the client; 1 to 64 of A-Z a-z 0-9 _ . -")
    flags.add_argument("--folder", type=Path, default=Path(), help="default: where you are")
    arguments = flags.parse_args(words)
    if not re.fullmatch(NAME, arguments.name):
        raise UserError(f"name {arguments.name!r} must be 1 to 64 of A-Z, a-z, 0-9, _, . and -")
    public, secret = make_keys(arguments.folder, arguments.name)
    print(f"{secret}  stays here; nobody else may read it")
    print(f"{public}  goes to the other side: a client's into the box's folder curve.allowed,")
    print(f"{' ' * len(str(public))}  a box's to its clients")
    return EXIT_OK
