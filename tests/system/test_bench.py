"""The benchmark runs, and docs/PERFORMANCE.md shows its results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.__main__ import PARTS, RESULTS
from tests.support.pipelines import ROOT


def test_the_page_shows_the_table_of_the_stored_results() -> None:
    results = json.loads(RESULTS.read_text())
    assert set(results) == set(PARTS)
    assert report.table(results) in report.PAGE.read_text()
    assert report.PLOT.exists()


def test_every_missed_aim_is_explained() -> None:
    missed = [row for row in report.rows_of(json.loads(RESULTS.read_text())) if not row.met]
    _, _, after_table = report.PAGE.read_text().partition(report.END)
    for row in missed:
        assert f"**{row.measure}**" in after_table, row.measure


@pytest.mark.parametrize(
    ("value", "limit", "more", "met"),
    [
        (1.0, 2.0, False, True),
        (3.0, 2.0, False, False),
        (3.0, 2.0, True, True),
        (2, 20, True, False),
    ],
)
def test_a_row_is_met_or_shows_by_how_much_it_was_missed(
    value: float, limit: float, more: bool, met: bool
) -> None:
    row = report.Row("measure", "aim", "measured", value, limit, more)
    assert row.met is met
    assert row.verdict == ("met" if met else f"**missed: {value:.3g}, not {limit:g}**")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_runs(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(json.loads(out.read_text())) == set(PARTS)
    assert done.stdout.count("\n| ") > len(PARTS)
    again = ["--only", "inference", "--table", "--quick", "--out", str(out)]
    table = subprocess.run(
        [sys.executable, "-m", "bench", *again],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert table.stdout == done.stdout
