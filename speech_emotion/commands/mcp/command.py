"""`speech-emotion mcp`: a server of the Model Context Protocol on stdin and stdout."""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from speech_emotion import __version__
from speech_emotion.commands.mcp.answers import Answers
from speech_emotion.common.client.flags import add_results_flags
from speech_emotion.common.errors import EXIT_OK, UserError, needs_extra
from speech_emotion.common.security.curve import client_keys_of
from speech_emotion.common.stage.main import LOG_FORMAT, Parser
from speech_emotion.dashboard.history.reader import HistoryReader

DESCRIPTION = """\
Let a language model ask for the emotions of a running pipeline and for those of its history: a
server of the Model Context Protocol on stdin and stdout. Its tools only read.

A program that uses such servers starts it with this command:
  speech-emotion mcp --history history.sqlite
"""
INSTRUCTIONS = """\
Emotions that speech sounds like, from a model that listens to voices and not to words. A label is
an estimate, no proof of what a person feels: give its confidence with it. `uncertain` means that
the model cannot tell; treat it as no information. A stream that is not `fresh` or `degraded` has no
present emotion."""
TOOLS = ("list_streams", "current_emotion", "utterances", "day_summary", "health")

P = ParamSpec("P")
R = TypeVar("R")


def main(words: list[str]) -> int:
    """Run `speech-emotion mcp` until stdin is closed; returns the exit code.

    Raises:
        UserError: the extra is missing, or endpoint, key or history are not usable.
    """
    parser = Parser(
        prog="speech-emotion mcp",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--history", type=Path, metavar="FILE", help="history file of the pipeline")
    add_results_flags(parser)
    flags = parser.parse_args(words)
    if importlib.util.find_spec("mcp") is None:
        raise UserError(needs_extra("mcp"))
    if flags.history is not None:
        HistoryReader(flags.history).close()
    answers = Answers(flags.results, flags.history, client_keys_of(flags))
    logging.basicConfig(level=logging.WARNING, format=LOG_FORMAT, stream=sys.stderr)
    # A thread that waits for stdin cannot be interrupted, and nothing needs to be saved.
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_OK))
    asyncio.run(_serve(answers))
    return EXIT_OK


async def _serve(answers: Answers) -> None:
    from mcp.server.mcpserver import MCPServer
    from mcp_types import ToolAnnotations

    server = MCPServer(
        "speech-emotion", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    read_only = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for name in TOOLS:
        server.add_tool(_with_text(getattr(answers, name)), annotations=read_only)
    feed = answers.feed()
    feed.start()
    try:
        await server.run_stdio_async()
    finally:
        feed.stop()


def _with_text(tool: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """A tool whose `UserError` reaches the model as its text."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(tool)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await tool(*args, **kwargs)
        except UserError as error:
            raise ToolError(str(error)) from None

    return run
