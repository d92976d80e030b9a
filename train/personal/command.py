"""`python -m train personal`: adapt a bundle to labels of its users, on the box."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.paths import DEFAULT_BUNDLE
from speech_emotion.common.stage.main import program
from speech_emotion.train.personal.adaptation import Adaptation, adapt_bundle, roll_back
from speech_emotion.train.personal.fit import Comparison


def add(commands: Any) -> None:
    """Add the command to `python -m train`."""
    parser = commands.add_parser(
        "personal",
        help="adapt a bundle to labels of its users; needs no extra packages",
        description="Fit a small map of a bundle's probabilities to labels that people gave, and "
        "write it into the bundle if it is better on labels kept back. docs/MODEL_PERSONAL.md",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--labels", type=Path, metavar="FILE", help="one JSON object per utterance")
    what.add_argument(
        "--rollback", action="store_true", help="restore the bundle before its newest map"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        default=DEFAULT_BUNDLE,
        metavar="DIR",
        help="bundle to adapt (default: the shipped one, which needs --out)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the adapted bundle (default: --bundle)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    parser.set_defaults(run=_run)
    measured = commands.add_parser(
        "personal-figures", help="what `personal` gains after 20, 50 and 100 labels"
    )
    measured.add_argument(
        "outputs", type=Path, nargs="+", metavar="NPZ", help="window outputs, as for `streams`"
    )
    measured.add_argument(
        "--bundle", type=Path, metavar="DIR", help="take parameters and thresholds from this bundle"
    )
    measured.add_argument("--seeds", type=int, default=5, help="homes per corpus (default: 5)")
    measured.add_argument("--json", type=Path, metavar="OUT", help="file for the figures")
    measured.set_defaults(run=_measure)


def _run(parsed: argparse.Namespace) -> int:
    if parsed.rollback:
        if parsed.out is not None:
            raise UserError("--out does not belong to --rollback, which changes --bundle itself")
        bundle = roll_back(parsed.bundle)
        if parsed.json:
            print(json.dumps({"bundle": bundle.id}))
            return EXIT_OK
        print(f"rolled back: {parsed.bundle} is {bundle.id} again")
        print(_swap(parsed.bundle))
        return EXIT_OK
    began = time.monotonic()
    done = adapt_bundle(parsed.bundle, parsed.labels, parsed.out)
    if parsed.json:
        print(json.dumps(table(done)))
        return EXIT_OK
    print(text(done))
    target = parsed.out or parsed.bundle
    if done.replaced:
        print(f"wrote {target}: {done.bundle.id}, in {time.monotonic() - began:.1f} s")
        print(_swap(target))
        print(f"undo: {program('train', 'python -m train')} personal --rollback --bundle {target}")
    else:
        print(f"not better: nothing is written, {parsed.bundle} stays {done.bundle.id}")
    return EXIT_OK


def table(done: Adaptation) -> dict[str, Any]:
    """An adaptation as JSON."""
    return {
        "bundle": done.bundle.id,
        "replaced": done.replaced,
        "counts": done.counts,
        "unusable": done.unusable,
        "kept_back": dataclasses.asdict(done.kept_back),
        "present": done.present and dataclasses.asdict(done.present),
    }


def text(done: Adaptation) -> str:
    """The figures of an adaptation, one line each."""
    counts = ", ".join(f"{name} {count}" for name, count in sorted(done.counts.items()))
    lines = [f"labels: {sum(done.counts.values())} ({counts})"]
    lines += [f"not used: {count}, {cause}" for cause, count in done.unusable.items()]
    lines.append("on labels kept back, against the bundle without a map:")
    lines += _figures(done.kept_back)
    if done.present is not None:
        lines.append("against the present map, which may know some of these labels:")
        lines += _figures(done.present)
    return "\n".join(lines)


def _figures(one: Comparison) -> list[str]:
    low, high = one.interval
    uar_low, uar_high = (100.0 * x for x in one.uar_interval)
    return [
        f"  cross-entropy {one.before:.3f} → {one.after:.3f} nats, "
        f"gain {one.before - one.after:+.3f} (95 % interval {low:+.3f} to {high:+.3f})",
        f"  mean recall {100 * one.uar_before:.1f} → {100 * one.uar_after:.1f} %, "
        f"gain {100 * (one.uar_after - one.uar_before):+.1f} "
        f"(95 % interval {uar_low:+.1f} to {uar_high:+.1f})",
    ]


def _swap(folder: Path) -> str:
    return f"use it in a running pipeline: speech-emotion swap {folder}"


def _measure(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.streams.window_outputs import parameters, read_outputs
    from speech_emotion.train.personal import figures

    given = parameters(parsed.bundle, [])
    corpora = read_outputs(parsed.outputs, given.decision.min_speech, given.calibration)
    found = figures.figures(corpora, given, range(parsed.seeds))
    for mode, listeners in found.items():
        for listener, rows in listeners.items():
            print(
                f"{mode}, {listener}", figures.table(rows, [one.name for one in corpora]), sep="\n"
            )
            print("mean of the corpora", figures.other_figures(rows), sep="\n")
    if parsed.json:
        write_json(parsed.json, found)
    return EXIT_OK
