"""Draws one day of the history: amount of speech and emotions.

    python examples/plot_day.py history.sqlite --out day.png
    python examples/plot_day.py history.sqlite --day 2026-11-25 --stream kitchen --out day.png

Needs `pip install -e '.[examples]'`.
"""

import argparse
import datetime as dt
import math
import sys
from pathlib import Path
from typing import Any

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from speech_emotion.common.errors import UserError
    from speech_emotion.dashboard.history.reader import HistoryReader
except ModuleNotFoundError as error:
    print(f"plot_day: {error.name} is missing; pip install -e '.[examples]'", file=sys.stderr)
    sys.exit(2)

BIN_S = 900.0
STYLES = {
    "angry": ("#d55e00", "///", "^"),
    "happy": ("#e69f00", "...", "o"),
    "neutral": ("#8d939b", "", "s"),
    "sad": ("#0072b2", "\\\\\\", "v"),
    "uncertain": ("#d9d9d4", "xxx", "x"),
}
OTHERS = [("#009e73", "+++", "P"), ("#cc79a7", "***", "D"), ("#56b4e9", "---", "*")]
"""Okabe and Ito's colours; hatches and markers distinguish labels without colour."""


def style_of(label: str, labels: list[str]) -> tuple[str, str, str]:
    """Colour, hatch and marker of a label."""
    if label in STYLES:
        return STYLES[label]
    others = [other for other in labels if other not in STYLES]
    return OTHERS[others.index(label) % len(OTHERS)]


def day_bounds(day: dt.date) -> tuple[float, float]:
    """Unix times of a local day's start and end; it has 23 or 25 hours when the clock changes."""
    start, end = (dt.datetime.combine(day + dt.timedelta(days=n), dt.time()) for n in (0, 1))
    return start.timestamp(), end.timestamp()


def plot(reader: HistoryReader, stream: str, day: dt.date, out: Path) -> int:
    """Draw one day of one stream; returns the number of utterances in it."""
    start, end = day_bounds(day)
    utterances = reader.utterances(stream, start, end, limit=100_000)
    labels = [
        *sorted({utterance["emotion"] for utterance in utterances} - {"uncertain"}),
        "uncertain",
    ]

    figure, (amount, confidence) = plt.subplots(
        2, 1, figsize=(12, 6.2), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    bins = math.ceil((end - start) / BIN_S)
    edges = [start + n * BIN_S for n in range(bins)]
    bottom = [0.0] * bins
    for label in labels:
        colour, hatch, marker = style_of(label, labels)
        minutes = [0.0] * bins
        of_label = [utterance for utterance in utterances if utterance["emotion"] == label]
        for utterance in of_label:
            number = min(bins - 1, int((utterance["time"] - start) // BIN_S))
            minutes[number] += utterance["seconds"] / 60.0
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        amount.bar(edges, minutes, BIN_S, bottom, align="edge", label=label, lw=0, **style)
        bottom = [low + more for low, more in zip(bottom, minutes, strict=True)]
        times = [item["time"] for item in of_label]
        confidences = [item["confidence"] for item in of_label]
        confidence.scatter(
            times, confidences, s=22, c=colour, marker=marker, linewidths=1.0, alpha=0.8
        )

    amount.set_title(f"{stream}, {day:%A %d %B %Y}", loc="left", fontsize=14, weight="bold")
    amount.set_ylabel("minutes of speech\nin a quarter of an hour")
    amount.set_ylim(0.0, max(1.0, 1.15 * max(bottom)))
    amount.legend(ncols=len(labels), frameon=False, loc="upper right")
    confidence.set_ylabel("confidence\nof each utterance")
    confidence.set_ylim(0.0, 1.02)
    confidence.set_xlim(start, end)
    hours = [dt.datetime.combine(day, dt.time(hour)) for hour in range(0, 24, 3)]
    confidence.set_xticks([hour.timestamp() for hour in hours], [f"{hour:%H:%M}" for hour in hours])
    for axes in (amount, confidence):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e2e1da", lw=0.8)
        axes.set_axisbelow(True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return len(utterances)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("history", type=Path, help="SQLite file of supervisor.py --history")
    parser.add_argument("--day", type=dt.date.fromisoformat, default=dt.date.today())
    parser.add_argument("--stream", default="main", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    options = parser.parse_args()
    try:
        with HistoryReader(options.history) as reader:
            if options.stream not in (known := reader.streams()):
                raise UserError(
                    f"no stream {options.stream!r}; the history has: {', '.join(known)}"
                )
            count = plot(reader, options.stream, options.day, options.out)
    except UserError as error:
        print(f"plot_day: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {count} utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
