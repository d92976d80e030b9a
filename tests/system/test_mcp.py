"""`speech-emotion mcp` with the reference client over its stdin and stdout."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.writer import HistoryWriter
from tests.support.history import make_utterance
from tests.support.live_page import INFO, live
from tests.support.pipelines import PATIENCE_S, ROOT, Running, command
from tests.support.publisher import Publisher, health

Ask = Callable[..., Awaitable[Any]]
NOON = dt.datetime(2026, 3, 14, 12).astimezone()


def history(folder: Path) -> Path:
    """Utterances from 12:00 on, one a minute: 30 of `main`, then one of `hall`."""
    path = folder / "h.sqlite"
    labels = ["angry", "sad", "uncertain"]
    spoken = [
        dataclasses.replace(
            make_utterance(n), time=NOON.timestamp() + 60.0 * n, emotion=labels[n % 3]
        )
        for n in range(30)
    ]
    last = dataclasses.replace(
        make_utterance(99), stream="hall", time=NOON.timestamp() + 3600.0, emotion="sad"
    )
    writer = HistoryWriter(path)
    writer.write([(one, 0.0) for one in (*spoken, last)])
    writer.close()
    return path


def converse(words: list[str], talk: Callable[[Any], Awaitable[None]]) -> None:
    """Start the server as a program that uses it does, and talk to it."""
    from mcp import Client, StdioServerParameters

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "speech_emotion", "mcp", *words],
        env={"XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]},
        cwd=ROOT,
    )

    async def run() -> None:
        async with Client(server) as client:
            await talk(client)

    asyncio.run(asyncio.wait_for(run(), 60.0))


async def ask(client: Any, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    content = answer.structured_content
    return content["result"] if set(content) == {"result"} else content


async def refused(client: Any, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    (block,) = answer.content
    text: str = block.text
    return text


def test_a_client_asks_for_the_present_and_the_past(
    publisher: tuple[Publisher, str], tmp_path: Path
) -> None:
    async def talk(client: Any) -> None:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == [
            *("list_streams", "current_emotion", "utterances", "day_summary", "health")
        ]
        assert all(tool.annotations.read_only_hint for tool in tools)
        publisher[0].wait_for()
        await present(client)
        await past(client)
        await mistakes(client)

    async def present(client: Any) -> None:
        with publisher[0].repeating_health():
            await fresh(client)
        for _ in range(100):  # no further result comes: the old one is no present emotion
            (now,) = await ask(client, "current_emotion")
            if now["freshness"] not in ("fresh", "degraded"):
                break
            await asyncio.sleep(0.1)
        assert now["freshness"] in ("stale", "gone")
        assert (now["sound"], now["emotion"], now["confidence"]) == (None, None, None)

    async def fresh(client: Any) -> None:
        for seq in range(1, 200, 2):  # odd ones are angry
            for message in (health(), INFO, live(seq)):
                publisher[0].send(message)
            streams = await ask(client, "list_streams")
            now = await ask(client, "current_emotion", **({"stream": "main"} if streams else {}))
            if streams and [one[0]["freshness"] for one in (streams, now)] == ["fresh", "fresh"]:
                break
        assert streams == [
            {
                "stream": "main",
                "freshness": "fresh",
                "problem": None,
                "source": "mic",
                "labels": ["angry", "sad"],
            }
        ]
        (now,) = now
        assert (now["emotion"], now["confidence"], now["sound"]) == ("angry", 0.75, "speech")
        assert (await ask(client, "health"))["processes"] == [
            {"name": "infer", "state": "ready", "reason": "broke"}
        ]

    async def past(client: Any) -> None:
        span = {"start": "2026-03-14T11:59", "end": "2026-03-14T12:10:30"}
        found = await ask(client, "utterances", **span, limit=5)
        assert found["total"] == 11
        assert [one["emotion"] for one in found["utterances"]] == [
            *("angry", "sad", "uncertain", "angry", "sad")
        ]
        assert found["utterances"][-1]["ended"] == (NOON + dt.timedelta(minutes=10)).isoformat()
        day = await ask(client, "day_summary", day="2026-03-14")
        assert [row["stream"] for row in day["streams"]] == ["hall", "main"]
        main = day["streams"][1]
        assert main["utterances"] == {"angry": 10, "sad": 10, "uncertain": 10}
        assert main["seconds"] == {"angry": 15.0, "sad": 15.0, "uncertain": 15.0}
        assert main["hours"] == {"12:00": {"angry": 10, "sad": 10, "uncertain": 10}}
        (hall,) = (await ask(client, "day_summary", day="2026-03-15", stream="hall"))["streams"]
        assert (hall["utterances"], hall["first"]) == ({}, None)

    async def mistakes(client: Any) -> None:
        text = await refused(client, "current_emotion", stream="attic")
        assert text.endswith(": no stream 'attic'; known streams: main")
        assert "the history has: hall, main" in await refused(client, "day_summary", stream="attic")
        assert "must be YYYY-MM-DD" in await refused(client, "day_summary", day="yesterday")
        assert "must be ISO 8601" in await refused(client, "utterances", start="noon")
        assert "before end" in await refused(client, "utterances", start="9999-01-01")

    converse(["--results", publisher[1], "--history", str(history(tmp_path))], talk)


def test_the_answers_of_a_real_pipeline(
    supervise: Callable[..., Running], clip: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "h.sqlite"
    running = supervise(f"--source=file:{clip(9.0)}", "--speed=max", f"--history={path}")
    running.process.wait()
    _, _, received = running.ended()
    spoken = received.fresh(public.Utterance)
    assert spoken

    async def talk(client: Any) -> None:
        found = await ask(client, "utterances")
        assert [one["emotion"] for one in found["utterances"]] == [one.emotion for one in spoken]
        report = await ask(client, "health")  # it has ended
        assert (report["freshness"], report["processes"]) == ("gone", [])
        assert await ask(client, "list_streams") == []

    converse(["--results", running.endpoint, "--history", str(path)], talk)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--history", "none.sqlite"], "none.sqlite: cannot be read"),
        (["--results", "nowhere"], "endpoint 'nowhere' is not usable"),
        (["--secret", "k"], "--secret and --server belong together"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str) -> None:
    done = command("mcp", *words)
    assert (done.returncode, done.stdout) == (2, "")
    (reason,) = done.stderr.splitlines()
    assert reason.startswith("speech-emotion mcp: ")
    assert line in reason


def test_the_missing_extra_is_named() -> None:
    program = (
        "import sys\n"
        "sys.modules['mcp'] = None\n"
        "import runpy\n"
        "sys.argv = ['speech-emotion', 'mcp']\n"
        "runpy.run_module('speech_emotion', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "speech-emotion mcp: needs the extra `mcp`; pip install 'speech-emotion-pipeline[mcp]'\n"
    )


def test_ctrl_c_ends_it(publisher: tuple[Publisher, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "speech_emotion", "mcp", "--results", publisher[1]],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    with process:
        publisher[0].wait_for()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
