"""Command-line flags of the programs that subscribe to the results of a pipeline."""

from __future__ import annotations

import argparse

from speech_emotion.common.client.results import DEFAULT_ENDPOINT, Results
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.curve import add_client_key_flags, client_keys_of


def add_results_flags(parser: argparse.ArgumentParser, *, stream: bool = False) -> None:
    """Add `--results`, also called `--endpoint`, and the flags for the keys of a client.

    Args:
        stream: add `--stream` as well.
    """
    parser.add_argument(
        "--results",
        "--endpoint",
        metavar="ENDPOINT",
        default=DEFAULT_ENDPOINT,
        help="results endpoint of the pipeline; default: %(default)s",
    )
    if stream:
        parser.add_argument("--stream", metavar="NAME", help="show one stream; default: all")
    add_client_key_flags(parser)


def open_results(flags: argparse.Namespace) -> Results:
    """The subscription that the flags describe.

    Raises:
        UserError: the endpoint or a key is not usable.
    """
    try:
        return Results(flags.results, flags.stream, client_keys=client_keys_of(flags))
    except ValueError as error:
        raise UserError(str(error)) from None
