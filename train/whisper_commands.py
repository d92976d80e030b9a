"""`python -m train whisper extract|crossval|build|teach`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.spec import read_toml
from speech_emotion.common.errors import EXIT_OK, UserError

HERE = Path(__file__).parent
FOLDS = 5


def add(
    commands: Any,
    add_data: Callable[[argparse.ArgumentParser], None],
    clips: Callable[[argparse.Namespace], Any],
    golden: Callable[..., Any],
) -> None:
    """Add the command to `python -m train`.

    Args:
        commands: subparsers of `python -m train`.
        add_data: adds the flags that select clips.
        clips: the clips that the flags select.
        golden: one window of sound for the self-test.
    """
    parser = commands.add_parser("whisper", help="train heads on the lower layers of Whisper")
    parts = parser.add_subparsers(required=True, metavar="PART")
    for name, text, run in (
        ("extract", "compute and cache the statistics of all windows", _extract),
        ("crossval", "figures on corpora and speakers left out, and thresholds", _crossval),
        ("build", "the same, and write a bundle", _build),
        ("pooling", "compare attentive statistics pooling with mean and deviation", _pooling),
        ("teach", "write the probabilities by which `train fit --teacher` trains", _teach),
    ):
        part = parts.add_parser(name, help=text)
        add_data(part)
        part.add_argument(
            "--weights", type=Path, required=True, metavar="PATH", help="Whisper base, CTranslate2"
        )
        part.add_argument("--work", type=Path, default=Path("work"), metavar="DIR", help="caches")
        part.add_argument(
            "--recipe", type=Path, default=HERE / "recipes" / "large.toml", metavar="FILE"
        )
        part.add_argument(
            "--votes", type=Path, metavar="FILE", help="CSV of the raters' votes for CREMA-D"
        )
        part.add_argument("--noise", type=Path, metavar="DIR", help="sounds without speech")
        part.add_argument("--speakers", type=int, metavar="N", help="of each corpus (default: all)")
        each = "of each speaker and emotion (default: all)"
        part.add_argument("--clips", type=int, metavar="N", dest="per_emotion", help=each)
        part.add_argument("--seed", type=int, default=0)
        part.add_argument("--workers", type=int, default=1)
        if name in ("crossval", "build"):
            part.add_argument("--json", type=Path, metavar="OUT")
            outputs = "folder for the outputs of corpora and speakers left out, for `streams`"
            part.add_argument("--outputs", type=Path, metavar="DIR", help=outputs)
            sweep = "add the robustness sweep: noise, levels, telephone, reverberation"
            part.add_argument("--sweep", action="store_true", help=sweep)
        if name == "pooling":
            part.add_argument("--json", type=Path, metavar="OUT")
            part.add_argument("--each", type=int, metavar="N", help="most clips of each corpus")
            hidden = "units of the attention (default: 64); 0: it is linear in the frame"
            part.add_argument("--hidden", type=int, default=64, metavar="N", help=hidden)
            part.add_argument("--steps", type=int, default=600, help="of the training")
            part.add_argument("--seeds", type=int, default=3, help="of weights and batches")
        if name == "build":
            part.add_argument("--name", required=True)
            part.add_argument("--out", type=Path, required=True, metavar="DIR")
        if name == "teach":
            part.add_argument("--out", type=Path, required=True, metavar="NPZ")
            part.add_argument("--folds", type=int, default=FOLDS, help="groups of speakers")
        part.set_defaults(run=run, clips=clips, golden=golden)


def _load(parsed: argparse.Namespace) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Recipe, feature spec, training set and the recipe file's other keys.

    Computes statistics that are not cached.
    """
    import numpy as np

    from speech_emotion.train.data import nonspeech
    from speech_emotion.train.data.soft_targets import read_votes
    from speech_emotion.train.evaluation.streams.bundle_outputs import Selection
    from speech_emotion.train.model.whisper import graph, heads
    from speech_emotion.train.model.whisper import window_statistics as extract

    table = read_toml(parsed.recipe)
    keys: dict[str, Any] = {"window_s": 3.0, "licence": "", "baseline": {}}
    allowed = {f.name for f in dataclasses.fields(heads.HeadRecipe)} | set(keys)
    if unknown := sorted(set(table) - allowed):
        raise UserError(f"{parsed.recipe}: {unknown[0]} is not a key; allowed: {sorted(allowed)}")
    keys = {key: table.pop(key, value) for key, value in keys.items()}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    recipe = heads.HeadRecipe(**values)
    known = set(graph.blocks())
    if unknown_names := sorted(set(recipe.statistics) - known):
        raise UserError(f"{parsed.recipe}: {unknown_names[0]} is no statistic; known: {known}")
    spec = graph.spec(keys["window_s"])
    selection = Selection(parsed.speakers, parsed.per_emotion)
    clips = selection.of(heads.labelled(parsed.clips(parsed)), parsed.seed)
    if missing := sorted(set(recipe.corpora) - {c.corpus for c in clips}):
        raise UserError(f"{parsed.recipe}: no clips of {missing[0]}; select some")
    encoder = extract.encoder_file(parsed.weights, spec, parsed.work)
    renderings = [
        extract.extract(
            clips, spec, encoder, copy, parsed.work, seed=parsed.seed, workers=parsed.workers
        )
        for copy in recipe.renderings
    ]
    columns = renderings[0].x.shape[1]
    noise = np.zeros((0, columns), np.float16)
    if parsed.noise:
        noise = extract.of_noise(nonspeech.sound_files(parsed.noise), spec, encoder, parsed.work)
    votes = read_votes(parsed.votes) if parsed.votes else {}
    return recipe, spec, heads.HeadTrainingSet(clips, renderings, noise, votes), keys


def _extract(parsed: argparse.Namespace) -> int:
    recipe, _, training_set, _ = _load(parsed)
    for copy, statistics_set in zip(recipe.renderings, training_set.renderings, strict=True):
        print(f"copy {copy}: {len(statistics_set.x)} windows of {len(training_set.clips)} clips")
    print(f"without speech: {len(training_set.noise)} windows")
    return EXIT_OK


def _teach(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.evaluation.metrics import uar
    from speech_emotion.train.model.teacher_file import write_teacher_file
    from speech_emotion.train.model.whisper import heads
    from speech_emotion.train.model.whisper.teaching import teach

    recipe, _, training_set, _ = _load(parsed)
    training_set, _ = heads.split_corpora(training_set, recipe.corpora)
    splits = teach(training_set, recipe, parsed.folds, parsed.seed)
    names = [c.name for c in training_set.clips]
    write_teacher_file(parsed.out, names, heads.LABELS, splits)
    corpus, truth, given = training_set.corpus, training_set.truth, splits["all"].argmax(axis=1)
    for name in sorted(set(corpus.tolist())):
        mine = corpus == name
        found = uar(truth[mine], given[mine], len(heads.LABELS))
        print(f"{name}, new speakers: UAR {100 * found:.1f} of {mine.sum()} clips")
    print(f"wrote {parsed.out}: {len(names)} clips, {len(splits)} splits")
    return EXIT_OK


def _pooling(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.data.soft_targets import read_votes
    from speech_emotion.train.evaluation import pooling
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.streams.bundle_outputs import Selection
    from speech_emotion.train.model.fit import set_threads
    from speech_emotion.train.model.whisper import graph, heads
    from speech_emotion.train.model.whisper import window_statistics as extract

    set_threads(1)
    clips = Selection(parsed.speakers, parsed.per_emotion).of(
        heads.labelled(parsed.clips(parsed)), parsed.seed
    )
    if parsed.each:
        clips = pooling.part_of(clips, parsed.each, parsed.seed)
    spec = graph.spec()
    encoder = extract.encoder_file(parsed.weights, spec, parsed.work, "frames", graph.frames_graph)
    windows = extract.extract(clips, spec, encoder, 0, parsed.work, workers=parsed.workers)
    votes = read_votes(parsed.votes) if parsed.votes else {}
    found = pooling.compare(
        heads.HeadTrainingSet(clips, [], windows.x[:0], votes),
        pooling.frames_of(windows, spec.n_frames // 2 // graph.FRAME_STEP),
        hidden=parsed.hidden,
        steps=parsed.steps,
        seeds=range(parsed.seed, parsed.seed + parsed.seeds),
    )
    print(pooling.markdown(found))
    if parsed.json:
        write_json(parsed.json, {"command": _command(), "uar": found})
    return EXIT_OK


def _figures(parsed: argparse.Namespace) -> tuple[Any, ...]:
    from speech_emotion.train.bundle import whisper_bundle as build
    from speech_emotion.train.bundle import whisper_card
    from speech_emotion.train.bundle.left_out import summary
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.evaluation.head_robustness import (
        changed_renderings,
        sweep,
        sweep_markdown,
    )
    from speech_emotion.train.evaluation.output_files import write_outputs
    from speech_emotion.train.model.whisper import heads
    from speech_emotion.train.model.whisper import window_statistics as extract

    recipe, spec, everything, keys = _load(parsed)
    training_set, others = heads.split_corpora(everything, recipe.corpora)
    window_sums = heads.sum_windows(training_set, recipe, FOLDS, parsed.seed)
    figures = build.measure(window_sums, spec, others=others)
    print("corpora left out", whisper_card.markdown(figures.left_out), sep="\n")
    print(whisper_card.nested_ece_text(figures))
    print("speakers left out", whisper_card.markdown(figures.new_speakers), sep="\n")
    if figures.others:
        print("other corpora", whisper_card.markdown(figures.others), sep="\n")
    print(whisper_card.operating_points_text(training_set, figures))
    print(whisper_card.frontier_markdown(figures.frontier))
    if parsed.outputs:
        for name, (clips, held_out) in figures.outputs.items():
            write_outputs(parsed.outputs / f"{name}.npz", clips, held_out)
    found = {"command": _command(), "recipe": dataclasses.asdict(recipe), **summary(figures)}
    if parsed.sweep:
        encoder = extract.encoder_file(parsed.weights, spec, parsed.work)
        renderings = changed_renderings(
            training_set, spec, encoder, parsed.work, parsed.seed, parsed.workers
        )
        found["robustness"] = sweep(window_sums, renderings, figures.parameters)
        print(sweep_markdown(found["robustness"]))
    if parsed.json:
        write_json(parsed.json, found)
    return window_sums, spec, keys, figures


def _crossval(parsed: argparse.Namespace) -> int:
    _figures(parsed)
    return EXIT_OK


def _build(parsed: argparse.Namespace) -> int:
    from speech_emotion.train.bundle import whisper_bundle as build
    from speech_emotion.train.bundle.whisper_licence import TEXTS
    from speech_emotion.train.model.whisper.weights import load_weights

    window_sums, spec, keys, figures = _figures(parsed)
    bundle, exported = build.build(
        window_sums,
        figures,
        load_weights(parsed.weights),
        spec,
        parsed.out,
        name=parsed.name,
        licence=(keys["licence"], TEXTS.get(keys["licence"], keys["licence"] + "\n")),
        baseline=keys["baseline"],
        golden=parsed.golden(spec),
        command=_command(),
        seed=parsed.seed,
    )
    compared = {k: v for k, v in dataclasses.asdict(exported).items() if k != "model"}
    print(f"wrote {bundle.path}: {bundle.id}, {len(exported.model)} bytes, {json.dumps(compared)}")
    return EXIT_OK


def _command() -> str:
    return "python -m train " + shlex.join(sys.argv[1:])
