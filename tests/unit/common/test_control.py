"""A request to a supervisor that ends while it answers."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.stage import control as module
from speech_emotion.common.stage.control import CONTROL, ask
from speech_emotion.common.wire.control_messages import Swap, Swapped
from speech_emotion.supervision.control_socket import ControlSocket, Request
from tests.support.pipelines import wait_until


@pytest.mark.parametrize("answers", [True, False])
def test_an_answer_that_comes_with_the_end_counts(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "ending"
    folder.mkdir()
    control = ControlSocket(folder)
    requests: list[tuple[bytes, Request]] = []

    def asked() -> bool:
        requests.extend(control.requests())
        return bool(requests)

    def end(_: str) -> None:
        """The supervisor answers and ends while its client looks whether it runs."""
        wait_until(asked, "the request")
        if answers:
            control.answer(requests[0][0], Swapped(0, "done"))
        control.close()

    monkeypatch.setattr(module, "ProcessIdentity", SimpleNamespace(parse=end))
    try:
        if answers:
            assert ask(folder / CONTROL, Swap("bundle"), Swapped) == Swapped(0, "done")
        else:
            with pytest.raises(UserError, match="the pipeline has ended"):
                ask(folder / CONTROL, Swap("bundle"), Swapped)
    finally:
        control.close()
        folder.rmdir()
