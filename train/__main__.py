"""Train, evaluate and calibrate: `python -m train COMMAND --help`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from speech_emotion.common.bundle.spec import FeatureSpec, load_spec  # noqa: E402
from speech_emotion.common.errors import EXIT_OK, EXIT_USER, UserError  # noqa: E402
from speech_emotion.common.paths import DEMO_CLIP  # noqa: E402
from speech_emotion.common.stage.main import program  # noqa: E402
from speech_emotion.train.data.clips import READERS, Clip, read_corpus, read_manifest  # noqa: E402

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line and exit code 2."""
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        code: int = parsed.run(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("train", "python -m train"), description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    fit = commands.add_parser("fit", help="train on corpora, end in a bundle")
    _add_data(fit)
    _add_job(fit)
    fit.add_argument("--name", required=True, help="name of the bundle")
    fit.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder")
    fit.add_argument("--figures", type=Path, metavar="JSON", help="of crossval, for the card")
    fit.add_argument(
        "--events", type=Path, metavar="DIR", help="sounds: false events, for the card"
    )
    fit.add_argument("--export", choices=("auto", "float32", "quantized"), default="auto")
    fit.add_argument("--golden", type=Path, metavar="FILE", help="sound for the self-test")
    fit.set_defaults(run=_fit)

    crossval = commands.add_parser("crossval", help="speaker-independent figures of a recipe")
    _add_data(crossval)
    _add_job(crossval)
    crossval.add_argument("--json", type=Path, metavar="OUT", required=True)
    crossval.add_argument("--sweep", action="store_true", help="the robustness sweep too")
    crossval.add_argument("--no-leak", action="store_true", help="leave the random split out")
    crossval.add_argument("--events", type=Path, metavar="DIR", help="sounds: false events too")
    crossval.add_argument("--webrtc", action="store_true", help="and with WebRTC's detector")
    crossval.set_defaults(run=_crossval)

    explore = commands.add_parser("explore", help="the table of what was tried")
    _add_data(explore)
    _add_job(explore)
    explore.add_argument("--rows", metavar="A,B", help="these alone")
    explore.add_argument("--json", type=Path, metavar="OUT", required=True)
    explore.set_defaults(run=_explore)

    events = commands.add_parser("events", help="false events of a bundle on a mix of non-speech")
    events.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    events.add_argument("--sounds", type=Path, metavar="DIR", help="real music and sounds")
    events.add_argument("--hours", type=float, default=2.0)
    events.add_argument("--seed", type=int, default=1)
    events.add_argument("--json", type=Path, metavar="OUT", help="figures and the mix's parts")
    events.set_defaults(run=_events)

    calibrate = commands.add_parser("calibrate", help="fit gate and thresholds to your room")
    calibrate.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    calibrate.add_argument(
        "--recording", type=Path, required=True, metavar="FILE", help="the room, nobody speaking"
    )
    calibrate.set_defaults(run=_calibrate)

    bundle = commands.add_parser("bundle", help="make a bundle of a model that you have")
    bundle.add_argument("--model", type=Path, nargs="+", required=True, metavar="FILE")
    bundle.add_argument("--spec", type=Path, required=True, metavar="FILE", help="[features]")
    bundle.add_argument("--labels", required=True, metavar="A,B,C")
    bundle.add_argument("--stats", type=Path, nargs=2, metavar=("MEAN.npy", "STD.npy"))
    bundle.add_argument("--quantized", action="store_true", help="8-bit weights")
    bundle.add_argument("--out", type=Path, required=True, metavar="DIR")
    bundle.set_defaults(run=_bundle)

    evaluate = commands.add_parser("evaluate", help="figures of a bundle on any manifest")
    _add_data(evaluate)
    evaluate.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--json", type=Path, metavar="OUT")
    evaluate.add_argument("--report", type=Path, metavar="DIR", help="HTML page and plots")
    evaluate.add_argument("--runtime", choices=("auto", "litert", "tflite"), default="auto")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="CSV of clips")
    parser.add_argument("--root", type=Path, metavar="DIR", help="its paths are relative to this")
    parser.add_argument(
        "--corpus",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help=f"a corpus in its public layout, as often as you like: {', '.join(READERS)}",
    )
    parser.add_argument("--only", metavar="A,B", help="of the manifest, take these corpora alone")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", type=Path, default=HERE / "recipes" / "default.toml", metavar="FILE"
    )
    parser.add_argument("--work", type=Path, default=Path("work"), metavar="DIR", help="caches")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="a Whisper model, CTranslate2")
    parser.add_argument("--noise", type=Path, metavar="DIR", help="sounds without speech")


def _clips(parsed: argparse.Namespace) -> list[Clip]:
    clips: list[Clip] = []
    if parsed.manifest:
        clips += read_manifest(parsed.manifest, parsed.root)
        if parsed.only:
            clips = [c for c in clips if c.corpus in parsed.only.split(",")]
    for argument in parsed.corpus:
        name, _, folder = argument.partition("=")
        clips += read_corpus(name, Path(folder))
    if not clips:
        raise UserError("no clips: name some with --manifest FILE or --corpus NAME=DIR")
    return clips


def _job(parsed: argparse.Namespace) -> Any:
    from speech_emotion.train.model.fit import threads
    from speech_emotion.train.model.training_job import load_plan, prepare

    plan = load_plan(parsed.recipe)
    clips = _clips(parsed)
    threads(parsed.threads)
    return prepare(
        plan,
        clips,
        parsed.work,
        seed=parsed.seed,
        teacher_model=parsed.teacher,
        noise_files=parsed.noise,
    )


def _command(arguments: Sequence[str] | None = None) -> str:
    given = list(sys.argv[1:] if arguments is None else arguments)
    return "python -m train " + shlex.join(given)


def _fit(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.bundle.build import build_bundle
    from speech_emotion.train.evaluation.protocols import fold_figures, run_folds

    job = _job(parsed)
    folds = run_folds(job, job.hear(), folds=parsed.folds)
    command = figures_command = _command()
    figures = fold_figures(job, folds)
    if parsed.figures:
        figures = json.loads(parsed.figures.read_text())
        figures_command = figures.get("command", command)
    bundle = build_bundle(
        job,
        folds,
        figures,
        parsed.out,
        name=parsed.name,
        command=command,
        figures_command=figures_command,
        golden=_golden(job.plan.spec, parsed.golden),
        chosen=parsed.export,
    )
    if parsed.events:
        from speech_emotion.train.bundle.writer import append_to_card
        from speech_emotion.train.evaluation.false_events import summary

        bundle = append_to_card(parsed.out, summary(parsed.out, parsed.events))
    print(f"wrote {bundle.path}: {bundle.id}")
    return EXIT_OK


def _golden(spec: FeatureSpec, path: Path | None = None) -> Any:
    """The loudest window of a recording: the self-test shall hear speech."""
    from speech_emotion.train.data.clips import load

    clip = Clip(path or DEMO_CLIP, "", "", "", "", "golden")
    samples = load(clip, spec.sample_rate)
    starts = range(0, max(1, len(samples) - spec.window), spec.hop)
    start = max(starts, key=lambda s: float((samples[s : s + spec.window] ** 2).sum()))
    return samples[start : start + spec.window]


def _events(parsed: argparse.Namespace) -> int:
    import dataclasses

    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.false_events import measure

    found, parts = measure(parsed.bundle, parsed.sounds, 3600 * parsed.hours, parsed.seed)
    print("min_utterance_confidence  false events per hour")
    for threshold, events in found.items():
        print(f"{threshold:>24}  {events['per_hour']:.1f}  {json.dumps(events['by_kind'])}")
    if parsed.json:
        listed = [dataclasses.asdict(part) for part in parts]
        write_json(parsed.json, {"thresholds": found, "parts": listed})
    return EXIT_OK


def _calibrate(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.bundle.room_calibration import calibrate

    site = calibrate(parsed.bundle, parsed.recording)
    print(f"{site.key} = {site.value:g}: {100 * site.passing:.1f} % of the room passes the gate")
    print(f"min_confidence = {site.min_confidence:g}")
    print(f"min_utterance_confidence = {site.min_utterance_confidence:g}")
    print(f"utterances with an emotion: {site.false_before} before, {site.false_after} now")
    return EXIT_OK


def _bundle(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.bundle.convert import bundle_model

    spec = load_spec(parsed.spec)
    bundle = bundle_model(
        parsed.model,
        spec,
        tuple(parsed.labels.split(",")),
        parsed.out,
        _golden(spec),
        stats=tuple(parsed.stats) if parsed.stats else None,
        quantized=parsed.quantized,
    )
    print(f"wrote {bundle.path}: {bundle.id}, input {bundle.layout}, output {bundle.output}")
    return EXIT_OK


def _crossval(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.evaluation.evaluate import table, write_json
    from speech_emotion.train.evaluation.protocols import (
        corpus_figures,
        event_figures,
        fold_figures,
        leak_figures,
        run_folds,
    )

    job = _job(parsed)
    folds = run_folds(job, job.hear(), sweep=parsed.sweep, folds=parsed.folds)
    figures: dict[str, Any] = {"command": _command(), **fold_figures(job, folds)}
    print("new speakers", table(figures["folds"]), sep="\n")
    if len(set(job.corpus.tolist())) > 1:
        figures["leave_one_corpus_out"] = corpus_figures(job, folds)
        print("new corpora", table(figures["leave_one_corpus_out"]), sep="\n")
    if not parsed.no_leak:
        figures["random_split"] = leak_figures(job, folds)
        print("random split, speakers leak", table(figures["random_split"]), sep="\n")
    if parsed.events:
        figures["false_events"] = event_figures(job, folds, parsed.events, webrtc=parsed.webrtc)
        print("false events per hour", figures["false_events"]["per_hour"])
    write_json(parsed.json, figures)
    return EXIT_OK


def _explore(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.explore import ROWS, plan_of, run_row, table
    from speech_emotion.train.model.fit import threads
    from speech_emotion.train.model.training_job import load_plan, prepare

    threads(parsed.threads)
    clips, base = _clips(parsed), load_plan(parsed.recipe)
    sounds = heard = spec = None
    rows: dict[str, Any] = json.loads(parsed.json.read_text()) if parsed.json.is_file() else {}
    for name in parsed.rows.split(",") if parsed.rows else ROWS:
        if name not in ROWS:
            raise UserError(f"{name}: no such row; known: {'; '.join(ROWS)}")
        if name in rows:
            continue
        job = prepare(
            plan_of(base, ROWS[name]),
            clips,
            parsed.work,
            seed=parsed.seed,
            teacher_model=parsed.teacher,
            noise_files=parsed.noise,
            sounds=sounds,
        )
        sounds = job.sounds
        if heard is None or job.plan.spec != spec:
            heard, spec = job.hear(), job.plan.spec
        rows[name] = run_row(job, heard)
        write_json(parsed.json, rows)
        print(table({name: rows[name]}), flush=True)
    print(table(rows))
    return EXIT_OK


def _evaluate(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.evaluation.evaluate import evaluate, table, write_json
    from speech_emotion.train.evaluation.report import write_report

    evaluation = evaluate(parsed.bundle, _clips(parsed), parsed.runtime)
    figures = evaluation.figures()
    print(table(figures))
    if evaluation.dropped:
        print("left out, no such label:", json.dumps(evaluation.dropped))
    if parsed.json:
        write_json(parsed.json, figures)
    if parsed.report:
        page = write_report(parsed.report, f"{parsed.bundle.name} evaluated", evaluation)
        print(f"report: {page}")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
