"""Train, evaluate and calibrate models, and make bundles of existing ones."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from speech_emotion.common.bundle.dimensions import DIMENSIONS  # noqa: E402
from speech_emotion.common.bundle.parameters import RUNTIMES  # noqa: E402
from speech_emotion.common.errors import EXIT_USER, UserError  # noqa: E402
from speech_emotion.common.stage.main import Parser, program  # noqa: E402
from speech_emotion.train import commands, whisper_commands  # noqa: E402
from speech_emotion.train.data.corpora import READERS  # noqa: E402
from speech_emotion.train.dimensions import command as arousal  # noqa: E402
from speech_emotion.train.dimensions import distance  # noqa: E402
from speech_emotion.train.personal import command as personal  # noqa: E402

HERE = Path(__file__).parent

EXAMPLES = """\
examples:
  {program} fit --corpus cremad=CREMA-D --name mine --out models/mine
  {program} evaluate --bundle models/mine --manifest data/manifest.csv --report report
  {program} crossval --manifest data/manifest.csv --json figures.json
  {program} calibrate --bundle models/mine --recording room.wav
  {program} personal --labels labels.jsonl --out models/ours
  {program} bundle --model model.onnx --spec spec.toml --labels angry,happy,sad --out models/mine

`{program} COMMAND --help` explains a command; docs/MODEL.md explains the steps.
"""


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
    name = program("train", "python -m train")
    parser = Parser(
        prog=name,
        description=__doc__,
        epilog=EXAMPLES.format(program=name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_fit(add.add_parser("fit", help="train on corpora and write a bundle"))
    _add_crossval(
        add.add_parser("crossval", help="figures of a recipe on new speakers and new corpora")
    )
    _add_evaluate(add.add_parser("evaluate", help="figures of a bundle on any manifest"))
    _add_explore(add.add_parser("explore", help="compare ideas in one table"))
    _add_calibrate(add.add_parser("calibrate", help="fit gate and thresholds to your room"))
    _add_outputs(add.add_parser("outputs", help="outputs of a bundle, as `streams` reads them"))
    _add_streams(add.add_parser("streams", help="figures of a baseline on streams of utterances"))
    _add_spread(add.add_parser("spread", help="mean and spread of figures over several runs"))
    _add_events(add.add_parser("events", help="false events of a bundle on sounds without speech"))
    _add_bundle(add.add_parser("bundle", help="make a bundle of a model that you have"))
    personal.add(add)
    arousal.add(add, _add_data, commands.selected_clips)
    distance.add(add)
    whisper_commands.add(add, _add_data, commands.selected_clips, commands.golden_audio)
    return parser


def _add_fit(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_job(parser)
    parser.add_argument("--name", required=True, help="name of the bundle")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the bundle"
    )
    parser.add_argument(
        "--figures", type=Path, metavar="JSON", help="figures of crossval for the model card"
    )
    parser.add_argument(
        "--events", type=Path, metavar="DIR", help="sounds: add false events to the model card"
    )
    parser.add_argument(
        "--export",
        choices=("auto", "float32", "quantized"),
        default="auto",
        help="weights of the TFLite model; auto: 8-bit if it changes at most 0.5 %% of the labels",
    )
    parser.add_argument("--golden", type=Path, metavar="FILE", help="sound for the self-test")
    parser.set_defaults(run=commands.fit)


def _add_crossval(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_job(parser)
    parser.add_argument(
        "--json", type=Path, metavar="OUT", required=True, help="file for the figures"
    )
    parser.add_argument("--sweep", action="store_true", help="add the robustness sweep")
    parser.add_argument("--no-leak", action="store_true", help="skip the random split")
    parser.add_argument("--events", type=Path, metavar="DIR", help="sounds: add false events")
    parser.add_argument(
        "--webrtc", action="store_true", help="add false events with WebRTC's voice detector"
    )
    parser.set_defaults(run=commands.crossval)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_model(parser)
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the figures")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="folder for an HTML page and its plots"
    )
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="auto", help="library that runs the model"
    )
    parser.set_defaults(run=commands.evaluate)


def _add_explore(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_job(parser)
    parser.add_argument("--rows", metavar="A,B", help="run these rows only")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", required=True, help="file for the rows; done rows stay"
    )
    parser.set_defaults(run=commands.explore)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--recording",
        type=Path,
        required=True,
        metavar="FILE",
        help="recording of the room without speech, at least a minute",
    )
    parser.set_defaults(run=commands.calibrate)


def _add_events(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--sounds", type=Path, metavar="DIR", help="recorded music and sounds")
    parser.add_argument("--hours", type=float, default=2.0, help="length of the mix (default: 2)")
    parser.add_argument("--seed", type=int, default=1, help="of the mix (default: 1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for figures and parts")
    parser.set_defaults(run=commands.events)


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    _add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="NPZ", help="file to write")
    parser.add_argument("--speakers", type=int, metavar="N", help="of each corpus (default: all)")
    parser.add_argument(
        "--clips", type=int, metavar="N", help="of each speaker and label (default: all)"
    )
    parser.add_argument(
        "--microphone",
        action="store_true",
        help="each clip a second time, through a telephone or a tilted microphone",
    )
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default="auto", help="library that runs the model"
    )
    parser.set_defaults(run=commands.outputs)


def _add_streams(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "outputs",
        type=Path,
        nargs="+",
        metavar="NPZ",
        help="window outputs, of each corpus by a model that has not heard it",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="take parameters and thresholds from this bundle"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=NUMBER", help="parameters of [baseline]"
    )
    parser.add_argument(
        "--choose", type=int, metavar="N", help="choose among N candidates by corpora left out"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the streams (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for the figures")
    parser.set_defaults(run=commands.streams)


def _add_spread(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "figures",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="files of `whisper crossval --json` or of `streams --json`, one of each run",
    )
    parser.set_defaults(run=commands.spread)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=".onnx, .pt2, .tflite, .keras, or config.json with .weights.h5",
    )
    parser.add_argument(
        "--spec", type=Path, required=True, metavar="FILE", help="TOML file with [features]"
    )
    parser.add_argument(
        "--labels", default="", metavar="A,B,C", help="in the order of the model's outputs"
    )
    parser.add_argument(
        "--dimensions",
        default="",
        metavar="A,B,C",
        help=f"its outputs after those of the labels, 0 to 1: {', '.join(DIMENSIONS)}",
    )
    parser.add_argument(
        "--stats",
        type=Path,
        nargs=2,
        metavar=("MEAN.npy", "STD.npy"),
        help="feature statistics of the training set",
    )
    parser.add_argument(
        "--quantized", action="store_true", help="store the weights as 8-bit integers"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the bundle"
    )
    parser.set_defaults(run=commands.bundle)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="folder of the bundle"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="CSV file of clips")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of its paths (default: its own folder)"
    )
    parser.add_argument(
        "--corpus",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help=f"a corpus in its public layout; repeatable: {', '.join(READERS)}",
    )
    parser.add_argument("--only", metavar="A,B", help="use only these corpora of the manifest")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe",
        type=Path,
        default=HERE / "recipes" / "small.toml",
        metavar="FILE",
        help="recipe file (default: train/recipes/small.toml)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("work"),
        metavar="DIR",
        help="folder of caches and checkpoints (default: work)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same model")
    parser.add_argument("--folds", type=int, default=5, help="groups of speakers (default: 5)")
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, (os.cpu_count() or 2) // 2),
        help="of TensorFlow (default: half of the cores)",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="PATH",
        help="a file of `whisper teach`, or a folder with a Whisper model in CTranslate2 format",
    )
    parser.add_argument(
        "--left-out",
        choices=("speakers", "corpora"),
        default="speakers",
        help="measure and calibrate on folds of speakers (default), or on corpora left out",
    )
    parser.add_argument("--noise", type=Path, metavar="DIR", help="sounds without speech")


if __name__ == "__main__":
    raise SystemExit(main())
