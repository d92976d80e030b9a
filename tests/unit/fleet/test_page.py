"""When the page of a fleet asks the centre again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("starlette")

from speech_emotion.common.errors import UserError
from speech_emotion.dashboard import fleet_page
from tests.support.pipelines import PATIENCE_S

FOREVER_S = 1e6


def test_a_failed_question_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that meets the end of the centre takes seconds, which say nothing of its size."""
    monkeypatch.setattr(fleet_page, "SHARE", FOREVER_S)
    monkeypatch.setattr(fleet_page, "ASK_S", 0.01)

    async def look() -> list[str | None]:
        errors: list[str | None] = []
        seen = asyncio.Event()
        asked = 0

        async def ask() -> list[dict[str, Any]]:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.1)
            if asked == 1:
                raise UserError("the server is silent")
            await seen.wait()
            return []

        page = fleet_page.FleetPage(ask)
        following = asyncio.create_task(page.follow())
        async with asyncio.timeout(PATIENCE_S):
            async for event in page._body():
                if "data: " in event:
                    state = json.loads(event.partition("data: ")[2])
                    errors.append(state["error"])
                    if state["error"] is not None:
                        seen.set()
                    if state["boxes"] is not None:
                        break
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return errors

    errors = asyncio.run(look())
    assert set(errors) == {None, "the server is silent"}
    assert errors[-1] is None
