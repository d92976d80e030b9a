"""Mean and spread of the same figures over several runs, as over the seeds of one recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.common.errors import UserError

STREAM, UTTERANCES = "70 % neutral", "20"
"""The scenario of `train streams`, and the number of utterances heard, that are compared."""
MEAN = "mean"


@dataclasses.dataclass(frozen=True)
class Measure:
    """One figure of every corpus over several runs.

    Attributes:
        name: what is measured.
        rows: corpus, or `MEAN` of the corpora → value of each run, in per cent.
    """

    name: str
    rows: Mapping[str, Sequence[float]]


def read_runs(files: Sequence[Path]) -> list[Measure]:
    """The measures of runs whose figures `whisper crossval --json` or `streams --json` wrote.

    Raises:
        UserError: a file has no such figures, or the runs have different corpora.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for file in files:
        for name, values in _measures(file):
            found.setdefault(name, []).append(values)
    measures = []
    for name, runs in found.items():
        if any(run.keys() != runs[0].keys() for run in runs):
            raise UserError(f"{name}: the runs have different corpora")
        rows = {corpus: [run[corpus] for run in runs] for corpus in sorted(runs[0])}
        rows[MEAN] = [float(np.mean(list(run.values()))) for run in runs]
        measures.append(Measure(name, rows))
    return measures


def _measures(file: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Name and per cent of each corpus, of one file."""
    try:
        table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if "scenarios" in table:
            corpora = table["scenarios"][STREAM]
            yield f"UAR cold, {STREAM}", _per_cent(corpora, "cold", "uar")
            for key in ("uar", "ece"):
                title = f"{key.upper()} after {UTTERANCES}"
                yield title, _per_cent(corpora, "after", UTTERANCES, key)
            return
        corpora = table["corpora_left_out"]["corpora"]
        yield "UAR, corpora left out", _per_cent(corpora, "uar")
        yield "ECE", _per_cent(corpora, "ece")
        yield "ECE, calibrated on the others", _per_cent(table["nested_ece"])
        yield "ECE, calibrated on itself", _per_cent(table["own_ece"])
        yield "UAR, new speakers", _per_cent(table["speakers_left_out"]["corpora"], "uar")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: has no figures of `whisper crossval` or `streams` ({error!r})"
        ) from None


def _per_cent(corpora: Mapping[str, Any], *keys: str) -> dict[str, float]:
    found = {}
    for corpus, value in corpora.items():
        for key in keys:
            value = value[key]
        found[corpus] = 100.0 * float(value)
    return found


def markdown(measures: Sequence[Measure]) -> str:
    """A table of the runs' mean, and in brackets their smallest and largest value."""
    names = list(dict.fromkeys(corpus for m in measures for corpus in m.rows if corpus != MEAN))
    lines = [["corpus", *(m.name for m in measures)], ["---"] * (len(measures) + 1)]
    for corpus in [*names, MEAN]:
        lines.append([corpus, *(_cell(m.rows.get(corpus, ())) for m in measures)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):.1f} ({min(values):.1f}–{max(values):.1f})"
