"""CPU and speed of this checkout against another one, by turns: `python -m bench.against ../other`.

Both read the same file with the same interpreter, one after the other, so that both meet the same
machine. The ratio is the result. `--write` puts it into bench/against.json and docs/PERFORMANCE.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import ROOT, cpu_by_process, cpu_percent, machine, pipeline, speech_file
from bench.pipelines import live_cost, times_real_time
from bench.report import PAGE
from speech_emotion.common.bundle.manifest import load_bundle

RESULTS = Path(__file__).with_name("against.json")
BEGIN, END = "<!-- against: begin -->", "<!-- against: end -->"
BLOCK_MS = 20.0
FILE_S = 1800.0
"""Seconds of the file that is read at full speed."""


def main() -> int:
    """Measure and print one line per run, then the ratios. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16], help="live streams")
    parser.add_argument("--file", action="store_true", help="a file at full speed, too")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each live run")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "small")
    parser.add_argument("--write", action="store_true", help="bench/against.json and its table")
    flags = parser.parse_args()
    revision = ["git", "-C", str(flags.other), "rev-parse", "--short", "HEAD"]
    found: dict[str, Any] = {
        "other": subprocess.run(
            revision, check=True, capture_output=True, text=True
        ).stdout.strip(),
        "bundle": flags.bundle.name,
        "machine": machine(),
        "rounds": flags.rounds,
        "rows": [],
    }
    print(f"{machine()['cpu']}, {machine()['cores']} cores, {flags.bundle.name}")
    with tempfile.TemporaryDirectory(prefix="sep-bench-") as name:
        for count in flags.streams:
            speech = speech_file(Path(name), 60.0 + 2.0 * flags.seconds)

            def cost(root: Path, speech: Path = speech, count: int = count) -> float:
                return live(root, speech, flags.bundle, count, flags.seconds)

            measure = f"{count} live stream{'s' * (count > 1)}, CPU in % of a core"
            found["rows"].append(compare(measure, cost, flags.other, flags.rounds))
        if flags.file:
            speech = speech_file(Path(name), FILE_S)
            row = compare(
                "one file at full speed, times real time",
                lambda root: full_speed(root, speech, flags.bundle),
                *(flags.other, flags.rounds),
            )
            found["rows"].append(row)
    if flags.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{table(found)}\n\n{END}{rest.partition(END)[2]}")
    return 0


def table(found: dict[str, Any]) -> str:
    """The comparison in Markdown."""
    at = found["machine"]
    lines = [
        f"Against {found['other']}, models/{found['bundle']}, speech all the time, medians of "
        f"{found['rounds']} rounds; {at['cpu']}, {at['cores']} cores, load before "
        f"{at['load_before']:g}, {at['date']}:",
        *("", "| | before | after | ratio |", "|---|---|---|---|"),
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['measure']} | {row['before']:.4g} | {row['after']:.4g} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def compare(measure: str, run: Callable[[Path], float], other: Path, rounds: int) -> dict[str, Any]:
    """Run both checkouts by turns; the medians and their ratio, which are printed, too."""
    found: dict[Path, list[float]] = {other.resolve(): [], ROOT: []}
    for _ in range(rounds):
        for root, values in found.items():
            values.append(run(root))
    (before, after) = (median(values) for values in found.values())
    print(f"{measure}: {before:.2f} before, {after:.2f} after, ratio {after / before:.2f}")
    return {"measure": measure, "before": before, "after": after, "ratio": after / before}


def live(root: Path, speech: Path, bundle: Path, count: int, seconds: float) -> float:
    """CPU in per cent of a core of all processes with `count` live streams."""
    with pipeline(speech, bundle, f"--streams={count}", block_ms=BLOCK_MS, root=root) as program:
        found = live_cost(program, seconds, count)
    late = found["latency_ms"]
    print(
        f"  {root.name}, {count} streams: {found['cpu_percent']:.2f} % "
        f"({_each(found['cpu_by_process'])}), p50 {late['median']:.1f}, p99 {late['p99']:.1f} ms, "
        f"{found['windows']} windows, {found['holes']} missing, {found['pss_total_mb']:.0f} MB",
        flush=True,
    )
    return float(found["cpu_percent"])


def full_speed(root: Path, speech: Path, bundle: Path) -> float:
    """Seconds of sound per second of one file."""
    with pipeline(speech, bundle, "--speed=max", root=root) as program:
        program.wait_for()
        before = program.cost()
        speed = times_real_time(program, FILE_S, load_bundle(bundle))
        after = program.cost()
    print(
        f"  {root.name}, file: {speed:.0f} times real time at {cpu_percent(before, after):.0f} % "
        f"of a core ({_each(cpu_by_process(before, after))})",
        flush=True,
    )
    return speed


def _each(percent: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in percent.items())


if __name__ == "__main__":
    raise SystemExit(main())
