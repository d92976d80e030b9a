"""`python -m train arousal`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import EXIT_OK, UserError

FOLDS = 5
DIMENSION = "arousal"


def add(
    commands: Any,
    add_data: Callable[[argparse.ArgumentParser], None],
    clips: Callable[[argparse.Namespace], Any],
) -> None:
    """Add the command to `python -m train`.

    Args:
        commands: subparsers of `python -m train`.
        add_data: adds the flags that select clips.
        clips: the clips that the flags select.
    """
    parser = commands.add_parser("arousal", help="give a bundle of `whisper build` arousal, too")
    add_data(parser)
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="made by `whisper build`"
    )
    parser.add_argument(
        "--votes", type=Path, required=True, metavar="FILE", help="CSV of CREMA-D's raters"
    )
    parser.add_argument(
        "--corpora",
        metavar="A,B",
        help="train on these corpora only; RAVDESS or CREMAD beside them is for evaluation",
    )
    parser.add_argument("--work", type=Path, default=Path("work"), metavar="DIR", help="caches")
    parser.add_argument("--copies", type=int, default=1, help="simulated recordings of every clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the figures")
    parser.add_argument(
        "--write", action="store_true", help="change the bundle; without it only the figures"
    )
    parser.set_defaults(run=_run, clips=clips)


def _run(parsed: argparse.Namespace) -> int:
    from speech_emotion.common.bundle.manifest import load_bundle
    from speech_emotion.train.bundle.writer import add_dimension
    from speech_emotion.train.data.soft_targets import read_votes
    from speech_emotion.train.dimensions import card, figures, head
    from speech_emotion.train.dimensions.model_file import ModelFile
    from speech_emotion.train.dimensions.targets import targets
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.model.whisper import window_statistics

    bundle = load_bundle(parsed.bundle)
    if bundle.model_file != "model.tflite":
        raise UserError(f"{bundle.display()}: needs a TFLite model of `train whisper build`")
    if parsed.write and DIMENSION in bundle.dimensions:
        raise UserError(f"{bundle.display()}: has {DIMENSION} already; build it again first")
    content = bundle.model.read_bytes()
    model = ModelFile(content)
    known = targets(parsed.clips(parsed), read_votes(parsed.votes))
    if not known.clips:
        raise UserError("arousal needs clips of RAVDESS or CREMA-D; select some")
    corpora = parsed.corpora.split(",") if parsed.corpora else []
    there = sorted(set(known.corpus.tolist()))
    if missing := sorted(set(corpora) - set(there)):
        raise UserError(
            f"--corpora: no clips of {missing[0]} with arousal, only of {', '.join(there)}"
        )
    encoder = parsed.work / f"statistics-{bundle.digest[:12]}.tflite"
    parsed.work.mkdir(parents=True, exist_ok=True)
    encoder.write_bytes(model.statistics())
    renderings = [
        window_statistics.extract(
            *(known.clips, bundle.spec, encoder, copy, parsed.work),
            seed=parsed.seed,
            workers=parsed.workers,
        )
        for copy in range(parsed.copies + 1)
    ]
    study = figures.Study(
        known, renderings, *head.sum_windows(known, renderings, FOLDS, parsed.seed, corpora)
    )
    rows = figures.table(known, study.held_out())
    print(figures.markdown(rows))
    command = "python -m train " + shlex.join(sys.argv[1:])
    if parsed.json:
        write_json(parsed.json, {"command": command, "ridge": head.RIDGE, "rows": rows})
    if parsed.write:
        fitted = study.final()
        made = {
            "command": command,
            "seed": parsed.seed,
            "corpora": study.corpora,
            "clips": sum(row["clips"] for row in rows if row["held_out"] == "speakers"),
            "ridge": head.RIDGE,
        }
        whole = ModelFile(content).append(fitted.weight[:, None], [fitted.bias])
        text = card.section(rows, study.corpora, command)
        changed = add_dimension(parsed.bundle, DIMENSION, whole, text, made)
        print(f"wrote {changed.path}: {changed.id}")
    return EXIT_OK
