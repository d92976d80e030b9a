"""Measures all figures of docs/PERFORMANCE.md: `make bench`, or `python -m bench`.

Writes bench/results.json, and from it the table and the plot in docs/. `--only` measures the
named parts, prints their table and keeps the stored results of the others. Run it on an otherwise
idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD

os.environ.update(ONE_BLAS_THREAD)  # read when numpy is imported

from bench import batch, features, inference, long_file, pipelines, report, ring, sources
from bench.harness import ROOT, machine
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.errors import EXIT_USER, UserError

RESULTS = Path(__file__).with_name("results.json")

Part = Callable[[pipelines.Setting], dict[str, Any]]
PARTS: dict[str, Part] = {
    "features": lambda at: features.measure(at.bundle, at.rounds(400) if at.quick else 400),
    "ring": lambda at: ring.measure(at.rounds(5)),
    "inference": lambda at: inference.measure(at.bundle, 2000),
    "batch": lambda at: batch.measure(30.0 if at.quick else 300.0, at.rounds(3)),
    "long": lambda at: long_file.measure(at.bundle.path, 0.05 if at.quick else 10.0),
    "sources": lambda at: sources.measure(at.seconds(30.0)),
    "start": pipelines.start,
    "latency": pipelines.latency,
    "loaded": pipelines.loaded,
    "cost": pipelines.cost,
    "streams": pipelines.streams,
    "speed": pipelines.speed,
}


def main() -> int:
    """Measure, write the results, print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="PART,…", help=f"any of {', '.join(PARTS)}")
    small = ROOT / "models" / "small"
    parser.add_argument("--bundle", type=Path, default=small, help="default: models/small")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: bench/results.json")
    parser.add_argument("--quick", action="store_true", help="short test run, writes no docs")
    parser.add_argument("--table", action="store_true", help="write only table and plot again")
    flags = parser.parse_args()
    wanted = flags.only.split(",") if flags.only else list(PARTS)
    if unknown := [part for part in wanted if part not in PARTS]:
        parser.error(f"--only {unknown[0]!r} must be of {', '.join(PARTS)}")
    results = json.loads(flags.out.read_text()) if flags.out.exists() else {}
    if not flags.table:
        try:
            bundle = load_bundle(flags.bundle)
        except UserError as error:
            print(f"bench: {error}", file=sys.stderr)
            return EXIT_USER
        with pipelines.setting(bundle, quick=flags.quick) as at:
            for part in wanted:
                began = time.monotonic()
                print(f"{part} …", end=" ", flush=True, file=sys.stderr)
                results[part] = {
                    **PARTS[part](at),
                    "bundle": bundle.id,
                    "machine": machine(),
                }
                flags.out.write_text(json.dumps(results, indent=1) + "\n")
                print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(report.table({part: results[part] for part in wanted if part in results}))
    if not flags.quick and flags.out == RESULTS:
        report.write(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
