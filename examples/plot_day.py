"""Draws a day from the history: how much was spoken, and how it sounded.

    python examples/plot_day.py history.sqlite --out day.png
    python examples/plot_day.py history.sqlite --day 2026-11-25 --stream kitchen --out day.png

Needs `pip install -e '.[examples]'`.
"""

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates
import matplotlib.pyplot as plt

from speech_emotion.common.errors import UserError
from speech_emotion.dashboard.history.reader import HistoryReader

BIN_S = 900.0
LOOKS = {
    "angry": ("#d55e00", "///", "^"),
    "happy": ("#e69f00", "...", "o"),
    "neutral": ("#8d939b", "", "s"),
    "sad": ("#0072b2", "\\\\\\", "v"),
    "uncertain": ("#d9d9d4", "xxx", "x"),
}
OTHERS = [("#009e73", "+++", "P"), ("#cc79a7", "***", "D"), ("#56b4e9", "---", "*")]
"""Okabe and Ito's colours; hatches and markers say the same without them."""


def look(label: str, labels: list[str]) -> tuple[str, str, str]:
    """Colour, hatch and marker of a label."""
    if label in LOOKS:
        return LOOKS[label]
    others = [one for one in labels if one not in LOOKS]
    return OTHERS[others.index(label) % len(OTHERS)]


def plot(reader: HistoryReader, stream: str, day: dt.date, out: Path) -> int:
    """Draw one day of one stream; returns the number of utterances in it."""
    midnight = dt.datetime.combine(day, dt.time()).astimezone()
    start = midnight.timestamp()
    end = (midnight + dt.timedelta(days=1)).timestamp()
    said = reader.utterances(stream, start, end, limit=100_000)
    labels = [*sorted({one["emotion"] for one in said} - {"uncertain"}), "uncertain"]

    figure, (amount, single) = plt.subplots(
        2, 1, figsize=(12, 6.2), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    bins = round((end - start) / BIN_S)
    edges = [dt.datetime.fromtimestamp(start + n * BIN_S).astimezone() for n in range(bins)]
    bottom = [0.0] * bins
    for label in labels:
        colour, hatch, marker = look(label, labels)
        minutes = [0.0] * bins
        ones = [one for one in said if one["emotion"] == label]
        for one in ones:
            minutes[min(bins - 1, int((one["time"] - start) // BIN_S))] += one["seconds"] / 60.0
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        amount.bar(
            edges, minutes, BIN_S / 86400.0, bottom, align="edge", label=label, lw=0, **style
        )
        bottom = [low + more for low, more in zip(bottom, minutes, strict=True)]
        times = [dt.datetime.fromtimestamp(one["time"]).astimezone() for one in ones]
        sure = [one["confidence"] for one in ones]
        single.scatter(times, sure, s=22, c=colour, marker=marker, linewidths=1.0, alpha=0.8)

    amount.set_title(f"{stream}, {day:%A %d %B %Y}", loc="left", fontsize=14, weight="bold")
    amount.set_ylabel("minutes of speech\nin a quarter of an hour")
    amount.set_ylim(0.0, max(1.0, 1.15 * max(bottom)))
    amount.legend(ncols=len(labels), frameon=False, loc="upper right")
    single.set_ylabel("confidence\nof each utterance")
    single.set_ylim(0.0, 1.02)
    single.set_xlim(midnight, midnight + dt.timedelta(days=1))
    hours = matplotlib.dates.DateFormatter("%H:%M", tz=midnight.tzinfo)
    single.xaxis.set_major_formatter(hours)
    for axes in (amount, single):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e2e1da", lw=0.8)
        axes.set_axisbelow(True)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return len(said)


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
                raise UserError(f"no stream {options.stream!r}; there are: {', '.join(known)}")
            count = plot(reader, options.stream, options.day, options.out)
    except UserError as error:
        print(f"plot_day: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {count} utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
