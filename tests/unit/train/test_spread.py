"""Figures over several runs: mean, smallest and largest value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speech_emotion.train.__main__ import main
from tests.support.window_outputs import write_outputs


def crossval(path: Path, uar: dict[str, float]) -> Path:
    rows = {"corpora": {name: {"uar": value, "ece": 0.1} for name, value in uar.items()}}
    figures = {
        "corpora_left_out": rows,
        "speakers_left_out": rows,
        "nested_ece": dict.fromkeys(uar, 0.2),
        "own_ece": dict.fromkeys(uar, 0.01),
    }
    path.write_text(json.dumps(figures), encoding="utf-8")
    return path


def cells(table: str, row: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_each_corpus_and_their_mean_over_the_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        crossval(tmp_path / f"{k}.json", {"A": a, "B": b})
        for k, (a, b) in enumerate([(0.5, 0.7), (0.6, 0.6), (0.55, 0.8)])
    ]
    assert main(["spread", *map(str, runs)]) == 0
    table = capsys.readouterr().out
    assert cells(table, "corpus")[1:] == [
        *("UAR, corpora left out", "ECE", "ECE, calibrated on the others"),
        *("ECE, calibrated on itself", "UAR, new speakers"),
    ]
    assert cells(table, "A")[1] == "55.0 (50.0–60.0)"
    assert cells(table, "mean")[1] == "62.5 (60.0–67.5)"
    assert cells(table, "mean")[2:4] == ["10.0 (10.0–10.0)", "20.0 (20.0–20.0)"]


def test_streams_of_other_seeds_are_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [str(write_outputs(tmp_path, name, seed)) for seed, name in enumerate("AB")]
    runs = [tmp_path / f"{seed}.json" for seed in range(2)]
    for seed, run in enumerate(runs):
        flags = ["--seeds", "1", "--seed", str(seed), "--json", str(run)]
        assert main(["streams", *outputs, *flags]) == 0
    each = [
        json.loads(run.read_text(encoding="utf-8"))["scenarios"]["70 % neutral"]["A"]["after"]["20"]
        for run in runs
    ]
    capsys.readouterr()
    assert main(["spread", *map(str, runs)]) == 0
    uars = sorted(100 * one["uar"] for one in each)
    assert uars[0] < uars[1]
    wanted = f"{sum(uars) / 2:.1f} ({uars[0]:.1f}–{uars[1]:.1f})"
    table = capsys.readouterr().out
    assert cells(table, "A")[2] == wanted
    assert cells(table, "corpus")[1:] == ["UAR cold, 70 % neutral", "UAR after 20", "ECE after 20"]


@pytest.mark.parametrize("text", ["", "[]", '{"corpora_left_out": {}}', '{"scenarios": {}}'])
def test_a_file_without_figures_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "figures.json"
    path.write_text(text, encoding="utf-8")
    assert main(["spread", str(path)]) == 2
    assert f"error: {path}: has no figures" in capsys.readouterr().err


def test_runs_of_other_corpora_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [crossval(tmp_path / f"{name}.json", {name: 0.5}) for name in "AB"]
    assert main(["spread", *map(str, runs)]) == 2
    assert "the runs have different corpora" in capsys.readouterr().err
