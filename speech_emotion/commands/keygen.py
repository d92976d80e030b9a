"""`speech-emotion keygen`: make a key pair for a box or for a client."""

from __future__ import annotations

import re
from pathlib import Path

from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.security.curve import NAME, make_keys


def main(words: list[str]) -> int:
    """Run `speech-emotion keygen`; returns the exit code.

    Raises:
        UserError: the name is malformed, or a file exists.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion keygen",
        description="Make a key pair for a machine that runs the pipeline, or for a client.",
    )
    flags.add_argument("name", help="name of the machine or client: 1 to 64 of A-Z a-z 0-9 _ . -")
    flags.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        help="folder of the key files; default: the current one",
    )
    arguments = flags.parse_args(words)
    if not re.fullmatch(NAME, arguments.name):
        raise UserError(f"name {arguments.name!r} must be 1 to 64 of A-Z, a-z, 0-9, _, . and -")
    public, secret = make_keys(arguments.folder, arguments.name)
    print(f"{secret}  is secret and stays here")
    print(f"{public}  goes to the other side: a client's key to the folder curve.allowed,")
    print(f"{' ' * len(str(public))}  the key of the pipeline's machine to its clients")
    return EXIT_OK
