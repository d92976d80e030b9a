"""The notebook runs from its first cell to its last, and draws."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.pipelines import ROOT

NOTEBOOK = ROOT / "examples" / "recordings.ipynb"


def test_every_cell_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    drawn: list[int] = []
    monkeypatch.setattr(pyplot, "show", lambda: drawn.append(len(pyplot.gca().collections)))
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)
    pyplot.close("all")
    assert drawn == [len(names["pipeline"].labels)]
    assert names["results"][0].state == "silence"
    assert "neutral" in capsys.readouterr().out
