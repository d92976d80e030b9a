"""Write an evaluation as one self-contained HTML page with its plots."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from speech_emotion.train.evaluation.evaluate import Evaluation
from speech_emotion.train.evaluation.metrics import (
    calibration_bins,
    confusion,
    risk_at,
    risk_coverage,
)

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    "figure{display:inline-block;margin:.5rem}img{max-width:100%}"
)


def write_report(folder: Path, title: str, evaluation: Evaluation) -> Path:
    """Write `folder/index.html`, and its plots as PNG files next to it; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = evaluation.figures()
    plots: dict[str, Callable[[Any, Evaluation], None]] = {
        "Confusion": _confusion,
        "Reliability": _reliability,
        "Risk and coverage": _risk,
        "Speakers": _speakers,
    }
    images = []
    for name, draw in plots.items():
        data = _plot(draw, evaluation, name)
        (folder / f"{name.lower().replace(' ', '-')}.png").write_bytes(data)
        source = base64.b64encode(data).decode()
        images.append(f'<figure><img alt="{name}" src="data:image/png;base64,{source}"></figure>')
    genders = ", ".join(f"{g} {100 * u:.1f}" for g, u in evaluation.uar_by("gender").items())
    dropped = ", ".join(f"{k} {n}" for k, n in evaluation.dropped.items()) or "none"
    page = folder / "index.html"
    page.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        "<p>Per cent, with 95 % bootstrap intervals, of utterances and windows as the live "
        "pipeline publishes them.</p>"
        f"{_table(figures)}<p>UAR by gender: {html.escape(genders or 'not known')}.</p>"
        f"<p>Clips not evaluated, no such label: {html.escape(dropped)}.</p>"
        f"{''.join(images)}</html>\n"
    )
    return page


def _table(figures: dict[str, Any]) -> str:
    rows = []
    for name, each in [*figures["corpora"].items(), ("overall", figures["overall"])]:
        for level, u in each.items():
            low, high = u["uar_ci"]
            cells = (
                f"{name}, {level}",
                str(u["n"]),
                f"{100 * u['uar']:.1f} ({100 * low:.1f}-{100 * high:.1f})",
                *(f"{100 * u[key]:.1f}" for key in ("accuracy", "ece", "coverage")),
            )
            rows.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    head = "".join(f"<th>{h}</th>" for h in ("", "n", "UAR", "accuracy", "ECE", "coverage"))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _plot(draw: Callable[[Any, Evaluation], None], evaluation: Evaluation, title: str) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    draw(axes, evaluation)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _confusion(axes: Any, e: Evaluation) -> None:
    n = len(e.labels)
    counts = confusion(e.truth, e.probabilities.argmax(axis=1), n)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    for i in range(n):
        for j in range(n):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(n), e.labels, rotation=30)
    axes.set_yticks(range(n), e.labels)
    axes.set(xlabel="predicted", ylabel="true")


def _reliability(axes: Any, e: Evaluation) -> None:
    confidence = e.probabilities.max(axis=1)
    bins = calibration_bins(e.probabilities.argmax(axis=1) == e.truth, confidence)
    axes.plot([0, 1], [0, 1], "--", color="grey")
    axes.plot([b[0] for b in bins], [b[1] for b in bins], "o-")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))


def _risk(axes: Any, e: Evaluation) -> None:
    right = e.probabilities.argmax(axis=1) == e.truth
    coverage, risk, _ = risk_coverage(right, e.probabilities.max(axis=1))
    axes.plot(coverage, risk)
    at = risk_at(right, e.probabilities.max(axis=1), 0.7)
    axes.plot([0.7], [at], "o", label=f"70 % coverage: {100 * at:.1f} % wrong")
    axes.legend()
    axes.set(xlabel="coverage", ylabel="error rate of the covered", xlim=(0, 1), ylim=(0, None))


def _speakers(axes: Any, e: Evaluation) -> None:
    by = sorted(e.uar_by("speaker").items(), key=lambda item: item[1])
    axes.barh(range(len(by)), [v for _, v in by])
    axes.set_yticks(range(len(by)), [k for k, _ in by], fontsize=max(3, 8 - len(by) // 12))
    axes.set(xlabel="UAR", xlim=(0, 1))
