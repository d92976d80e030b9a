"""`python -m train distance`: give a bundle of `train whisper` the distance, and calibrate it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_emotion.common.errors import EXIT_OK, UserError

FIGURES, ENDS = "## Figures\n", ("## Arousal\n",)
"""Sections of the model card: the first that is made again, and those after it that stay."""


@dataclasses.dataclass(frozen=True)
class Known:
    """Label index, corpus and speaker of clips, (clips,)."""

    truth: NDArray[np.int64]
    corpus: NDArray[np.str_]
    speaker: NDArray[np.str_]


def add(commands: Any) -> None:
    """Add the command to `python -m train`."""
    parser = commands.add_parser(
        "distance", help="calibrate by the distance from the training sounds, and add it"
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--outputs", type=Path, required=True, metavar="DIR", help="of `whisper crossval --outputs`"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the figures")
    parser.add_argument(
        "--write", action="store_true", help="change the bundle; without it only the figures"
    )
    parser.set_defaults(run=_run)


def read(path: Path) -> tuple[Known, Any]:
    """Clips and their held-out outputs from a file of `whisper crossval --outputs`.

    Raises:
        UserError: the file is missing, damaged, or has no distances.
    """
    from speech_emotion.train.evaluation.held_out import HeldOutOutputs

    try:
        with np.load(path, allow_pickle=False) as archive:
            table = {key: archive[key] for key in archive.files}
        parts = [table[key] for key in ("cold", "speech", "distance", "relative")]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: is no file of `whisper crossval --outputs` ({error})") from None
    outputs = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1).astype(np.float32)
    clips, first, owner = np.unique(table["clip"], return_index=True, return_inverse=True)
    known = Known(*(table[key][first] for key in ("label", "corpus", "speaker")))
    known = dataclasses.replace(known, truth=known.truth.astype(np.int64))
    order = np.argsort(owner, kind="stable")
    each = np.split(outputs[order], np.cumsum(np.bincount(owner))[:-1])
    return known, HeldOutOutputs(np.arange(len(clips)), each, [None] * len(clips))


def _run(parsed: argparse.Namespace) -> int:
    from speech_emotion.common.bundle.manifest import MANIFEST, load_bundle
    from speech_emotion.common.bundle.parameters import OPERATING_POINT_KEYS
    from speech_emotion.common.bundle.spec import read_toml
    from speech_emotion.train.bundle.left_out import figures_left_out, markdown_of, summary
    from speech_emotion.train.bundle.writer import change_model
    from speech_emotion.train.dimensions.model_file import ModelFile
    from speech_emotion.train.evaluation.crossval import parameter_bundle
    from speech_emotion.train.evaluation.evaluate import write_json
    from speech_emotion.train.model.whisper.graph import distance_columns

    bundle = load_bundle(parsed.bundle)
    if bundle.distance_output:
        raise UserError(f"{bundle.display()}: has the distance already; build it again first")
    known, corpora = read(parsed.outputs / "left_out.npz")
    people, speakers = read(parsed.outputs / "new_speakers.npz")
    if not np.array_equal(known.truth, people.truth):
        raise UserError(f"{parsed.outputs}: left_out.npz and new_speakers.npz have other clips")
    blank = parameter_bundle(bundle.spec, bundle.labels, speech_output=True, distance_output=True)
    figures = figures_left_out(known, blank, corpora, speakers)
    text = markdown_of(known, figures, "5 speaker-independent folds")
    print(text)
    command = "python -m train " + shlex.join(sys.argv[1:])
    if parsed.json:
        write_json(parsed.json, {"command": command, **summary(figures)})
    if not parsed.write:
        return EXIT_OK
    table = read_toml(parsed.bundle / MANIFEST)
    names = table["provenance"]["recipe"]["statistics"]
    position = 1 + bundle.speech_output
    model = ModelFile(bundle.model.read_bytes()).insert_mean_square(
        distance_columns(names), position
    )
    tuned = figures.parameters
    table["distance_output"] = True
    table["calibration"] = dataclasses.asdict(tuned.calibration)
    table["decision"] = _plain(tuned.decision)
    table["sensitivity"] = {
        name: {key: _plain(chosen)[key] for key in OPERATING_POINT_KEYS}
        for name, chosen in tuned.sensitivity.items()
    }
    table["provenance"]["distance"] = {"command": command}
    card = (parsed.bundle / "MODEL_CARD.md").read_text()
    made = f"{FIGURES}\nPer cent, of utterances. Acted speech, but for EMOSPEECH. Made by:\n\n"
    start = card.index(FIGURES)
    end = min((card.index(e) for e in ENDS if e in card), default=len(card))
    card = f"{card[:start]}{made}    {command}\n\n{text}\n\n{card[end:]}"
    changed = change_model(parsed.bundle, model, bundle.distance_at, card, table)
    print(f"wrote {changed.path}: {changed.id}")
    return EXIT_OK


def _plain(values: Any) -> dict[str, Any]:
    """A dataclass of numbers and tuples as a TOML table."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(values)))
    return plain
