"""The folders of the code and the import contracts between them, as Markdown: python -m tools.tree

`python -m tools.tree --lines` counts files and lines of each folder.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ROOMS = {
    "supervisor.py": "The command line of the pipeline, and its main function.",
    "supervision": "What only the supervisor does: start, watch, restart and stop the processes.",
    "supervision/privacy": "Whether sound may be taken, and the light that shows it.",
    "supervision/console": "Log lines and live lines on the terminal.",
    "supervision/metrics": "Metrics of `health` for Prometheus, and their server.",
    "alerts": "Judge rules and deliver alerts: an optional subscriber.",
    "alerts/channels": "Send one alert: webhook, ntfy, e-mail, MQTT, command.",
    "fleet": "Publish to NATS, and what a centre of many boxes needs: an optional subscriber.",
    "fleet/rollout": "Bundles for the boxes, in waves: orders, plan, centre, box, its watch.",
    "fleet/store": "The centre's Parquet files: rows, batches, compaction.",
    "capture": "Stage 1: read a source, resample it and write it into its ring.",
    "capture/sources": "One adapter per kind of source, and the state machine of a live source.",
    "capture/sources/network": "Sources on the network: connections, time stamps, reconnection.",
    "capture/sources/network/ffmpeg": "Sound through a child process ffmpeg.",
    "capture/recording": "Write sound and messages to disk (`--record`), and read them again.",
    "features": "Stage 2: read windows from the ring, gate them and compute their features.",
    "infer": "Stage 3: run the model, calibrate, smooth, decide, and find utterances.",
    "infer/offline": "The library: recordings and streams of samples in one process.",
    "infer/runtime": "Run a network: TFLite, ONNX, 8-bit inputs and outputs.",
    "infer/batch": "Many recordings to one table: inputs, worker processes, parts that can resume.",
    "features/core": "Feature cores: exact, fast, and librosa itself; filter banks, FFT.",
    "dashboard/access": "Access to the page: origins, token, keys, TLS, deadlines.",
    "dashboard/api": "The HTTP interface `/api/v1`: declared operations and their handlers.",
    "dashboard/review": "Sound that is kept for people to judge, their labels, the adaptation.",
    "dashboard/settings": "Change the configuration file: fields, text, earlier versions.",
    "dashboard/live": "The present: messages of the pipeline, and the event streams of pages.",
    "dashboard/history": "The SQLite file of results: schema, writer, reader.",
    "dashboard": "The live page and the history: two optional subscribers.",
    "common": "What several processes share; nothing here knows a stage.",
    "common/bundle": "The model bundle: manifest, feature specification, window grid.",
    "common/client": "The typed client for other programs; the promised Python interface.",
    "common/config": "The configuration: its model, its checks, how it is loaded.",
    "common/hub": "The results hub: the ledger that accepts in order and once, and `health`.",
    "common/linux": "What Linux offers: process identity, scheduling, runtime folder, eventfd.",
    "common/privacy": "Mute (quiet hours, state file, register) and the audit log.",
    "common/ring": "The ring in shared memory: layout, segment, reading and writing.",
    "common/security": "CURVE keys, the ZAP authenticator, and the check for exposed addresses.",
    "common/stage": "What every stage process does: main function, heartbeat, jobs, signals.",
    "common/wire": "Public and internal messages, their codec and their sockets.",
    "speech_emotion": "The importable package: links to the folders above.",
    "speech_emotion/commands": "Subcommands of `speech-emotion` that have no folder of their own.",
    "speech_emotion/commands/export": "Results as tables, annotations, subtitles, databases.",
    "speech_emotion/commands/mcp": "Answer questions of language models: an MCP server.",
    "speech_emotion/commands/mqtt": "Forward results to an MQTT broker and to Home Assistant.",
    "speech_emotion/commands/report": "Results as one HTML page.",
    "train": "The command `train`: fit, evaluate, convert and adapt models.",
    "train/data": "Corpora, augmentation, splits, and the training set.",
    "train/evaluation/streams": "Figures of the baseline: streams of outputs, scenarios, choice.",
    "train/model": "Network, fit, ensemble, teacher, export.",
    "train/model/whisper": "Lower layers of Whisper's encoder as a Keras graph, with linear heads.",
    "train/evaluation": "Metrics, cross-validation, calibration, events, reports.",
    "train/dimensions": "Arousal of a bundle that exists: targets, head, figures, its output.",
    "train/personal": "Adapt a bundle to labels of its users: fit, proof, rollback, figures.",
    "train/bundle": "Convert a network to TFLite and write a bundle with its model card.",
    "models": "The shipped bundles.",
    "examples": "Small programs that use the results, the demo clip and a configuration.",
    "bench": "Measurements of docs/PERFORMANCE.md.",
    "tests/unit": "Tests of single modules, in folders that mirror the code.",
    "tests/system": "Tests with real processes.",
    "tests/chaos": "Measured faults of docs/RELIABILITY.md.",
    "tests/support": "Fixtures and helpers of the tests.",
    "tools": "Generators of documents and checks of the code; not shipped.",
    "deploy/client": "The distribution `speech-emotion-client`: links to client and wire protocol.",
    "deploy/container": "Containerfile, compose files and what they mount.",
    "deploy/grafana": "Dashboards of Grafana and their data sources.",
    "deploy/package": "The Debian package, and the trial of all packages on a bare system.",
    "deploy/homeassistant": "The add-on of Home Assistant: configuration, image, program.",
    "deploy": "Set-up, service unit, installation scripts, pinned versions.",
}


def tree(*, lines: bool = False) -> str:
    """One row per folder: its sentence, and on demand its Python files and their lines."""
    head = ["folder", "purpose", *(["files", "lines"] if lines else [])]
    rows = [head, ["---"] * len(head)]
    for name, sentence in sorted(ROOMS.items()):
        rows.append([f"[`{name}`](../{name})", sentence, *(count(name) if lines else ())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def count(name: str) -> tuple[str, str]:
    """Python files and their lines; of a folder only its own, without the folders in it."""
    path = ROOT / name
    files = [path] if path.is_file() else [p for p in path.glob("*.py") if not p.is_symlink()]
    return str(len(files)), str(sum(len(p.read_text().splitlines()) for p in files))


def missing() -> set[str]:
    """Folders with Python files that have no row."""
    skipped = {"tests", "tests/data", "tests/data/models"}
    found = set()
    for path in ROOT.rglob("*.py"):
        name = path.parent.relative_to(ROOT).as_posix()
        hidden = any(part.startswith(".") or part in ("build", "dist") for part in path.parts)
        if not hidden and path.parent != ROOT and name not in skipped:
            found.add(name)
    mirrors = ("tests/unit/", "deploy/client/")
    return {name for name in found if not name.startswith(mirrors)} - set(ROOMS)


def contracts() -> str:
    """The import contracts of pyproject.toml as a list."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    lines = []
    for contract in table["contracts"]:
        lines.append(f"- **{contract['name']}.**")
        if "layers" in contract:
            arrow = "\n    ↓ ".join(contract["layers"])
            lines.append(f"\n  ```text\n      {arrow}\n  ```")
        if "source_modules" in contract:
            sources = ", ".join(f"`{short(name)}`" for name in contract["source_modules"])
            targets = ", ".join(f"`{short(name)}`" for name in contract["forbidden_modules"])
            lines.append(f"  {sources} may not import {targets}.")
        if contract.get("ignore_imports"):
            lines.append("  Exceptions: " + ", ".join(f"`{one}`" for one in arrows(contract)) + ".")
    return "\n".join(lines) + "\n"


def arrows(contract: dict[str, list[str]]) -> list[str]:
    return [
        " → ".join(short(name) for name in one.split(" -> ")) for one in contract["ignore_imports"]
    ]


def short(name: str) -> str:
    return name.removeprefix("speech_emotion.")


def text() -> str:
    """Both parts."""
    return (
        f"{tree()}\nImport contracts, checked by `make lint` (an upper layer may import a lower "
        f"one; layers in one line are independent):\n\n{contracts()}"
    )


if __name__ == "__main__":
    sys.stdout.write(tree(lines=True) if "--lines" in sys.argv else text())
