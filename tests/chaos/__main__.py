"""`make chaos`: every fault, measured, as the table in docs/RELIABILITY.md.

`python -m tests.chaos --list` names the parts, `--only NAME,…` runs some of them, `--quick`
does less of each. Exit 0 where every bound was kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.chaos import (
    abuse,
    audio,
    combined,
    crowds,
    fleet,
    kills,
    late,
    network,
    soak,
    sources,
    stalls,
)
from tests.chaos.scene import QUICK, Row, Scale
from tests.support.pipelines import ROOT

PARTS: dict[str, Callable[[Scale], list[Row]]] = {
    "kill-file": kills.kill_file,
    "kill-live": kills.kill_live,
    "kill-capture": kills.kill_capture,
    "kill-alerts": kills.kill_alerts,
    "kill-review": kills.kill_review,
    "stop": kills.stop_stages,
    "kill-supervisor": kills.kill_supervisor,
    "audio": audio.audio_faults,
    "away": audio.away,
    "load": audio.load,
    **{f"source-{kind}": sources.matrix(kind) for kind in sources.KINDS},
    "network-gap": network.gap_length,
    "reconnections": network.reconnections,
    "pause": network.pause,
    "drift": network.drift,
    "refusals": abuse.refusals,
    "damaged-bundle": abuse.damaged_bundle,
    "slow-subscriber": abuse.slow_subscriber,
    "unread-stderr": abuse.unread_stderr,
    "fuzz": abuse.fuzz,
    "index": abuse.sample_index,
    "clock": abuse.clock,
    "late": late.late_victims,
    "kill-all": late.kill_everything,
    "removed": late.removed,
    "stopped-supervisor": stalls.stopped_supervisor,
    "busy": stalls.busy,
    "stalled-disk": stalls.stalled_disk,
    "descriptors": crowds.descriptors,
    "greedy": crowds.greedy,
    "fleet": fleet.fleet,
    "soak": soak.soak,
    "combined": combined.combined,
}
LOAD = "`load`: the load average (1 min) before the part began, made by other programs."
BEGIN, END = "<!-- chaos: made by `make chaos` -->", "<!-- end -->"
SOURCES_BEGIN = "<!-- sources: made by `make chaos` -->"


def main() -> int:
    flags = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    flags.add_argument("--only", metavar="NAME,…", help="these parts alone")
    flags.add_argument("--quick", action="store_true", help="less of each")
    flags.add_argument("--seed", type=int, help="of the random events of `combined`")
    flags.add_argument("--events", type=int, help="number of them")
    flags.add_argument("--pause", type=float, metavar="S", help="length of long pauses and cuts")
    flags.add_argument("--list", action="store_true", help="name the parts, and end")
    flags.add_argument("--json", type=Path, metavar="FILE", help="rows of earlier parts are kept")
    flags.add_argument("--write", type=Path, metavar="FILE.md", help="replace the table there")
    options = flags.parse_args()
    if options.list:
        print("\n".join(PARTS))
        return 0
    chosen = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        flags.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}")
    scale = QUICK if options.quick else Scale()
    given = {"seed": options.seed, "events": options.events, "pause_s": options.pause}
    scale = dataclasses.replace(scale, **{k: n for k, n in given.items() if n is not None})
    table: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="sep-run-") as runtime:
        os.environ["XDG_RUNTIME_DIR"] = runtime
        for part in chosen:
            table[part] = run(part, scale)
            if options.json is not None:
                store(options.json, part, table[part])
    if options.write is not None:
        write(options.write, stored(options.json) if options.json is not None else table)
    return 0 if all(row.held for part in chosen for row in table[part]) else 1


def stored(path: Path) -> dict[str, list[Row]]:
    """The rows in a file of results, by part."""
    if not path.is_file():
        return {}
    parts = json.loads(path.read_text())["parts"]
    return {part: [Row(**row) for row in rows] for part, rows in parts.items()}


def store(path: Path, part: str, rows: list[Row]) -> None:
    """Replace one part in a file of results; another run may have added others meanwhile."""
    table = {**stored(path), part: rows}
    parts = {name: [dataclasses.asdict(row) for row in of] for name, of in table.items()}
    path.write_text(json.dumps({"machine": machine(), "parts": parts}, indent=1) + "\n")


def run(part: str, scale: Scale) -> list[Row]:
    """The rows of one part; a part that breaks down is a row, too."""
    began, load = time.monotonic(), round(os.getloadavg()[0], 1)
    try:
        rows = PARTS[part](scale)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # pytest's `fail` is no Exception
        traceback.print_exc()
        rows = [Row(part, "to run", f"broke down: {str(error)[:200]}", False)]
    rows = [dataclasses.replace(row, load=load) for row in rows]
    for row in rows:
        print(f"{'held  ' if row.held else 'MISSED'} {row.fault}: {row.measured}", flush=True)
    print(f"       ({part}: {time.monotonic() - began:.0f} s)", flush=True)
    return rows


def machine() -> str:
    return (
        f"{platform.machine()}, {psutil.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def write(path: Path, table: dict[str, list[Row]]) -> None:
    lines = ["| fault | bound | measured | load | held |", "|---|---|---|---|---|"]
    for part in (one for one in PARTS if not one.startswith("source-")):
        for row in table.get(part, []):
            held = "yes" if row.held else "**no**"
            load = "–" if row.load is None else f"{row.load:.0f}"
            lines.append(f"| {row.fault} | {row.bound} | {row.measured} | {load} | {held} |")
    text = between(path.read_text(), BEGIN, [f"Machine: {machine()}. {LOAD}", "", *lines])
    rows = [row for kind in sources.KINDS for row in table.get(f"source-{kind}", [])]
    path.write_text(between(text, SOURCES_BEGIN, by_source(rows)))


def between(text: str, begin: str, lines: list[str]) -> str:
    """The text with other lines between two marks."""
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(END)
    return "\n".join([head + begin, "", *lines, "", END]) + tail


def by_source(rows: list[Row]) -> list[str]:
    """A table with a line for each kind of source and a column for each fault."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows:
        source, _, fault = row.fault.partition(": ")
        figures = (row.figures or row.measured) + ("" if row.held else " **no**")
        cells.setdefault(source, {"load": f"{row.load or 0:.0f}"})[fault or "all"] = figures
    faults = list(dict.fromkeys(fault for found in cells.values() for fault in found))
    faults.sort(key=lambda fault: (fault == "load", fault == "wrong password"))
    lines = [f"| source | {' | '.join(faults)} |", "|---" * (len(faults) + 1) + "|"]
    for source, found in cells.items():
        lines.append(f"| {source} | {' | '.join(found.get(f, '–') for f in faults)} |")
    return lines


if __name__ == "__main__":
    assert Path.cwd() == ROOT, "run it from the root of the project"
    sys.exit(main())
