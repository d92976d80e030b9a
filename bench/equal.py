"""Batch, live pipeline at full speed and library on real recordings: identical messages.

`python -m bench.equal FOLDER --clips 1000 --hours 2`. The clips are a random choice (seed 0) of
the sound files in FOLDER; the long file is made of them. Then a batch is killed with kill -9 three
times and resumed: its output must have the bytes of the undisturbed one. Ends with exit code 1 at
the first difference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import soundfile

from bench.harness import ROOT, Program
from speech_emotion import Pipeline
from speech_emotion.common.wire import public
from speech_emotion.infer.batch.inputs import SUFFIXES
from speech_emotion.infer.batch.table import messages_of

STREAMS = 50
"""Clips that one pipeline analyses at once."""
LIVE_ONLY = ("v", "stream", "run", "time", "timing_ms")
"""Keys in which a live message may differ."""
RATE = 16000

Rows = list[dict[str, Any]]


def main() -> int:
    """Compare; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.equal", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with real recordings")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models" / "small")
    flags = parser.parse_args()
    chosen = choice(flags.folder, flags.clips)
    with tempfile.TemporaryDirectory(prefix="sep-equal-") as name:
        work = Path(name)
        long = long_file(work / "long.flac", chosen, flags.hours)
        manifest = work / "manifest.txt"
        manifest.write_text("".join(f"{path}\n" for path in (*map(str, chosen), str(long))))
        began = time.monotonic()
        of_batch = batch(manifest, work / "whole.parquet", flags.bundle)
        count = sum(map(len, of_batch.values()))
        say(f"batch: {len(of_batch)} files, {count} messages", began)
        pipeline = Pipeline(flags.bundle)
        for path in (*chosen, long):
            of_library = [comparable(public.to_json_map(m)) for m in pipeline(path)]
            check(f"library, {path}", of_library, of_batch[str(path)])
        say("library: identical", began)
        for first in range(0, len(chosen), STREAMS):
            part = chosen[first : first + STREAMS]
            for path, rows in live(part, work, flags.bundle).items():
                check(f"live, {path}", rows, of_batch[str(path)])
            print(f"live: {first + len(part)} clips identical", end="\r", flush=True)
        say(f"live: {len(chosen)} clips identical", began)
        check("live, long file", live([long], work, flags.bundle)[long], of_batch[str(long)])
        say(f"live: {flags.hours:g} hours identical", began)
        kills(manifest, work, flags.bundle, flags.kills)
        say(f"batch, killed {flags.kills} times and resumed: identical bytes", began)
    return 0


def choice(folder: Path, count: int) -> list[Path]:
    """A random choice of the sound files in a folder."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(found) < count:
        raise SystemExit(f"{folder}: holds {len(found)} sound files, not {count}")
    return random.Random(0).sample(found, count)


def long_file(path: Path, clips: list[Path], hours: float) -> Path:
    """The clips one after the other, again and again, as one FLAC file."""
    left = round(hours * 3600 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as out:
        while left > 0:
            for clip in clips:
                samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
                if rate != RATE:
                    continue
                out.write(samples[:left, 0])
                left -= len(samples)
                if left <= 0:
                    break
    return path


def batch(manifest: Path, out: Path, bundle: Path) -> dict[str, Rows]:
    """The messages of every file, from the table."""
    import pyarrow.parquet as pq

    subprocess.run(command(manifest, out, bundle), cwd=ROOT, check=True)
    rows: dict[str, Rows] = {}
    for name, message in messages_of(pq.read_table(out)):
        rows.setdefault(name, []).append(comparable(public.to_json_map(message)))
    return rows


def command(manifest: Path, out: Path, bundle: Path) -> list[str]:
    words = ["--manifest", str(manifest), "--out", str(out), "--bundle", str(bundle)]
    return [sys.executable, "-m", "infer", *words]


def live(paths: list[Path], work: Path, bundle: Path) -> dict[Path, Rows]:
    """The messages of files that one pipeline reads at full speed, a stream for each."""
    config = work / "live.toml"
    names = {f"clip-{k}": path for k, path in enumerate(paths)}
    config.write_text(
        f"bundle = {json.dumps(str(bundle))}\nspeed = 'max'\n"
        + "".join(
            f"[[stream]]\nname = '{name}'\nsource = {json.dumps(f'file:{path}')}\n"
            for name, path in names.items()
        )
    )
    rows: dict[Path, Rows] = {path: [] for path in paths}
    with Program([str(ROOT / "supervisor.py"), "--config", str(config)]) as program:
        for topic, message, _ in program.messages():
            kind, _, stream = topic.partition("/")
            if kind in ("result", "utterance"):
                rows[names[stream]].append(comparable(message))
        if code := program.process.wait(60):
            raise SystemExit(f"the pipeline ended with exit code {code}")
    return rows


def kills(manifest: Path, work: Path, bundle: Path, count: int) -> None:
    """Kill a batch and resume it; compare its bytes with the undisturbed one."""
    whole, killed = work / "whole.parquet", work / "killed.parquet"
    inputs = len(manifest.read_text().splitlines())
    words = command(manifest, killed, bundle)
    for turn in range(count):
        process = subprocess.Popen(
            [*words, *["--resume"][: turn > 0]], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        wanted = inputs * (turn + 1) // (count + 2)
        while process.poll() is None and parts(killed) < wanted:
            time.sleep(0.05)
        workers = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        psutil.wait_procs(workers, 10)
        print(f"killed with {parts(killed)} of {inputs} parts")
    subprocess.run([*words, "--resume"], cwd=ROOT, check=True)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole, killed)]
    if digests[0] != digests[1]:
        raise SystemExit(f"other bytes after {count} kills: {digests}")
    print(f"SHA-256 {digests[0]}")


def parts(out: Path) -> int:
    return len(list(Path(f"{out}.parts").glob("??/*.parquet")))


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in LIVE_ONLY}


def check(what: str, found: Rows, expected: Rows) -> None:
    if found != expected:
        k = next(
            (k for k, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
            min(len(found), len(expected)),
        )
        raise SystemExit(
            f"{what}: differs at message {k} of {len(expected)} ({len(found)} found):\n"
            f"{found[k : k + 1]}\n{expected[k : k + 1]}"
        )


def say(text: str, began: float) -> None:
    print(f"{text} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
