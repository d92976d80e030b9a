"""The commands of `python -m train`. Heavy packages are imported when a command runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speech_emotion.common.bundle.spec import FeatureSpec, load_spec
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.paths import DEMO_CLIP
from speech_emotion.train.data.clips import (
    LABEL_SETS,
    Clip,
    Samples,
    load,
    mapping,
    read_manifest,
)
from speech_emotion.train.data.corpora import read_corpus

if TYPE_CHECKING:
    from speech_emotion.train.model.training_job import TrainingJob


def fit(parsed: argparse.Namespace) -> int:
    """Train on corpora and write a bundle."""
    from speech_emotion.train.bundle import left_out
    from speech_emotion.train.bundle.build import build_bundle
    from speech_emotion.train.bundle.card import figures_text
    from speech_emotion.train.bundle.writer import append_to_card
    from speech_emotion.train.evaluation.false_events import summary
    from speech_emotion.train.evaluation.protocols import (
        calibrate_on_folds,
        fold_figures,
        run_folds,
    )

    if parsed.left_out == "corpora" and parsed.figures:
        raise UserError("--left-out corpora makes the figures itself; remove --figures")
    job = _job(parsed)
    command = figures_command = _command_line()
    if parsed.left_out == "corpora":
        measured = left_out.measure(job, parsed.folds)
        tuned, text = measured.parameters, left_out.text(job, measured, parsed.folds)
        calibrated = "temperatures and operating points from corpora left out, each classified by a"
        calibrated += " model that was not trained on it; speech thresholds from new speakers"
    else:
        folds = run_folds(job, job.clip_features(), folds=parsed.folds)
        figures = fold_figures(job, folds)
        if parsed.figures:
            figures = json.loads(parsed.figures.read_text())
            figures_command = figures.get("command", command)
        tuned, text = calibrate_on_folds(job, folds), figures_text(figures)
        calibrated = "temperatures and thresholds from the folds' speakers, each classified by a"
        calibrated += " model that was not trained on them"
    bundle = build_bundle(
        job,
        tuned,
        text,
        parsed.out,
        name=parsed.name,
        calibrated=calibrated,
        command=command,
        figures_command=figures_command,
        golden=golden_audio(job.plan.spec, parsed.golden),
        chosen=parsed.export,
    )
    if parsed.events:
        bundle = append_to_card(parsed.out, summary(parsed.out, parsed.events))
    print(f"wrote {bundle.path}: {bundle.id}")
    return EXIT_OK


def crossval(parsed: argparse.Namespace) -> int:
    """Figures of a recipe on new speakers and new corpora."""
    from speech_emotion.train.bundle import left_out
    from speech_emotion.train.evaluation.evaluate import table, write_json
    from speech_emotion.train.evaluation.protocols import (
        corpus_figures,
        event_figures,
        fold_figures,
        leak_figures,
        run_folds,
    )

    if parsed.left_out == "corpora" and (parsed.sweep or parsed.webrtc or parsed.events):
        raise UserError("--left-out corpora has no --sweep, --webrtc and --events; remove them")
    job = _job(parsed)
    if parsed.left_out == "corpora":
        measured = left_out.measure(job, parsed.folds)
        print(left_out.text(job, measured, parsed.folds))
        recipe = dataclasses.asdict(job.plan.recipe)
        found = {"command": _command_line(), "recipe": recipe, **left_out.summary(measured)}
        write_json(parsed.json, found)
        return EXIT_OK
    folds = run_folds(job, job.clip_features(), sweep=parsed.sweep, folds=parsed.folds)
    figures: dict[str, Any] = {"command": _command_line(), **fold_figures(job, folds)}
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


def evaluate(parsed: argparse.Namespace) -> int:
    """Figures of a bundle on any manifest."""
    from speech_emotion.train.evaluation.evaluate import evaluate, table, write_json
    from speech_emotion.train.evaluation.report import write_report

    evaluation = evaluate(parsed.bundle, selected_clips(parsed), parsed.runtime)
    if parsed.report and not evaluation.clips:
        raise UserError("--report shows labels, and no clip has one of the bundle; use --json")
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


def explore(parsed: argparse.Namespace) -> int:
    """Compare ideas in one table; rows that the JSON file holds are not run again."""
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.explore import ROWS, plan_of, run_row, table
    from speech_emotion.train.model.fit import set_threads
    from speech_emotion.train.model.recipe import load_plan
    from speech_emotion.train.model.training_job import prepare

    set_threads(parsed.threads)
    clips, base = selected_clips(parsed), load_plan(parsed.recipe)
    sounds = features = spec = None
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
        if features is None or job.plan.spec != spec:
            features, spec = job.clip_features(), job.plan.spec
        rows[name] = run_row(job, features)
        write_json(parsed.json, rows)
        print(table({name: rows[name]}), flush=True)
    print(table(rows))
    return EXIT_OK


def calibrate(parsed: argparse.Namespace) -> int:
    """Fit gate and thresholds of a bundle to a room."""
    from speech_emotion.train.bundle.room_calibration import calibrate

    room = calibrate(parsed.bundle, parsed.recording)
    print(f"{room.key} = {room.value:g}: {100 * room.passing:.1f} % of the room passes the gate")
    print(f"min_confidence = {room.min_confidence:g}")
    print(f"min_utterance_confidence = {room.min_utterance_confidence:g}")
    print(f"utterances with an emotion: {room.false_before} before, {room.false_after} now")
    return EXIT_OK


def events(parsed: argparse.Namespace) -> int:
    """False events of a bundle on a mix of sounds without speech."""
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.false_events import measure

    figures, parts = measure(parsed.bundle, parsed.sounds, 3600 * parsed.hours, parsed.seed)
    print("min_utterance_confidence  false events per hour")
    for threshold, each in figures.items():
        print(f"{threshold:>24}  {each['per_hour']:.1f}  {json.dumps(each['by_kind'])}")
    if parsed.json:
        listed = [dataclasses.asdict(part) for part in parts]
        write_json(parsed.json, {"thresholds": figures, "parts": listed})
    return EXIT_OK


def outputs(parsed: argparse.Namespace) -> int:
    """Write the outputs of a bundle for the windows of clips."""
    from speech_emotion.train.evaluation.streams.bundle_outputs import Selection, write_outputs

    windows = write_outputs(
        parsed.out,
        parsed.bundle,
        selected_clips(parsed),
        Selection(parsed.speakers, parsed.clips),
        microphones=parsed.microphone,
        runtime=parsed.runtime,
    )
    print(f"wrote {parsed.out}: {windows} windows")
    return EXIT_OK


def streams(parsed: argparse.Namespace) -> int:
    """Figures of a baseline on streams of utterances; with --choose also its parameters."""
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.streams import choice, figures
    from speech_emotion.train.evaluation.streams.window_outputs import parameters, read_outputs

    given = parameters(parsed.bundle, parsed.set)
    corpora = read_outputs(parsed.outputs, given.decision.min_speech, given.calibration)
    seeds = range(parsed.seed, parsed.seed + parsed.seeds)
    heard = figures.listen_to_all(corpora, given.baseline, seeds)
    used = {outputs.name: given.baseline for outputs in corpora}
    found: dict[str, Any] = {"command": _command_line()}
    if parsed.choose:
        if len(corpora) < 3:
            raise UserError("--choose needs window outputs of at least three corpora")
        tried = choice.candidates(parsed.choose, 0, given.baseline)
        chosen, used = choice.choose(heard, given.calibration.temperature, tried)
        found["chosen"] = chosen
        print("chosen by all corpora:", choice.text(chosen))
        for name, to in used.items():
            print(f"chosen without {name}:", choice.text(to))
    found |= figures.figures(heard, given, used)
    print("UAR", figures.table(found), sep="\n")
    if parsed.bundle:
        print("of 100 neutral utterances, those with an emotional label / of 100 emotional ones,")
        print("those with the right one", figures.label_table(found), sep="\n")
    if parsed.json:
        found["parameters"] = {name: dataclasses.asdict(to) for name, to in used.items()}
        if parsed.choose:
            found["chosen"] = dataclasses.asdict(found["chosen"])
        write_json(parsed.json, found)
    return EXIT_OK


def spread(parsed: argparse.Namespace) -> int:
    """Mean and spread of figures over several runs."""
    from speech_emotion.train.evaluation.spread import markdown, read_runs

    print(markdown(read_runs(parsed.figures)))
    return EXIT_OK


def bundle(parsed: argparse.Namespace) -> int:
    """Make a bundle of an existing model."""
    from speech_emotion.train.bundle.convert import bundle_model

    spec = load_spec(parsed.spec)
    made = bundle_model(
        parsed.model,
        spec,
        _names(parsed.labels),
        parsed.out,
        golden_audio(spec),
        dimensions=_names(parsed.dimensions),
        stats=tuple(parsed.stats) if parsed.stats else None,
        quantized=parsed.quantized,
    )
    print(f"wrote {made.path}: {made.id}, input {made.layout}, output {made.output}")
    return EXIT_OK


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split(",")) if words else ()


def golden_audio(spec: FeatureSpec, path: Path | None = None) -> Samples:
    """The loudest window of a recording, (spec.window,), so that the self-test uses speech.

    Args:
        path: sound file; the demo clip by default.
    """
    clip = Clip(path or DEMO_CLIP, "", "", "", "", "golden")
    samples = load(clip, spec.sample_rate)
    starts = range(0, max(1, len(samples) - spec.window), spec.hop)
    start = max(starts, key=lambda s: float((samples[s : s + spec.window] ** 2).sum()))
    return samples[start : start + spec.window]


def selected_clips(parsed: argparse.Namespace) -> list[Clip]:
    """The clips that --manifest, --only and --corpus select.

    Raises:
        UserError: no clip is selected, or a file is not readable.
    """
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


def _job(parsed: argparse.Namespace) -> TrainingJob:
    from speech_emotion.train.model.fit import set_threads
    from speech_emotion.train.model.recipe import load_plan
    from speech_emotion.train.model.training_job import prepare

    plan = load_plan(parsed.recipe)
    clips = selected_clips(parsed)
    if not plan.recipe.emotion_head and not plan.recipe.teacher:
        known = mapping(LABEL_SETS[plan.recipe.labels])
        clips = [c for c in clips if c.emotion in known]
    set_threads(parsed.threads)
    return prepare(
        plan,
        clips,
        parsed.work,
        seed=parsed.seed,
        teacher_model=parsed.teacher,
        noise_files=parsed.noise,
    )


def _command_line() -> str:
    """This command as it is written in model cards."""
    return "python -m train " + shlex.join(sys.argv[1:])
