"""The command `speech-emotion`: one subcommand each, loaded only when it is used."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import runpy
import sys

from speech_emotion import __version__
from speech_emotion.common.errors import EXIT_OK, EXIT_USER, needs_extra
from speech_emotion.common.linux.entry import guarded, prepare

TRAIN_PACKAGES = ("keras", "tensorflow", "sklearn", "tqdm", "matplotlib")
"""What the extra `train` installs, by import name."""

LIGHT_TRAINING = (["personal"], ["bundle"])
"""The commands of `train` that need none of them: they run on the box."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        module: a module with `main(words) -> int`, or a program that runs as `__main__`.
        help: one line for `speech-emotion --help`.
        program: whether the module is a program.
    """

    module: str
    help: str
    program: bool = False


COMMANDS = {
    "run": Command("supervisor", "run the pipeline: microphone, file or stdin to results", True),
    "demo": Command("commands.demo", "run the pipeline on a recording that comes with it"),
    "doctor": Command("commands.doctor", "check bundle, memory, devices and a trial run"),
    "devices": Command("commands.devices", "list the input devices"),
    "infer": Command("infer", "classify recordings, or run the infer stage alone", True),
    "export": Command("commands.export.command", "write results for other programs"),
    "report": Command("commands.report.command", "show results as one HTML page"),
    "features": Command("features", "compute features of a file, or run the stage alone", True),
    "capture": Command("capture", "record or meter a source, or run the stage alone", True),
    "health": Command("commands.health", "exit code 0 if a running pipeline is well"),
    "watch": Command("commands.watch", "show a running pipeline in this terminal"),
    "subscribe": Command("commands.subscribe", "print the results of a running pipeline"),
    "wyoming": Command("commands.wyoming", "analyse the sound that a Wyoming recognizer gets"),
    "dashboard": Command("dashboard", "serve the live page of a running pipeline", True),
    "history": Command("dashboard.history_writer", "write results to a SQLite file", True),
    "mqtt": Command("commands.mqtt.command", "forward results to MQTT and Home Assistant"),
    "mcp": Command("commands.mcp.command", "answer questions of a language model (extra: mcp)"),
    "swap": Command("commands.swap", "make a running pipeline use another bundle"),
    "mute": Command("commands.mute", "stop listening, also over a restart"),
    "unmute": Command("commands.unmute", "listen again"),
    "alerts": Command("commands.alerts", "show alerts of a running pipeline, or send a test"),
    "fleet": Command("commands.fleet", "many boxes and one centre: NATS, Parquet, status"),
    "audit": Command("commands.audit", "check the audit log"),
    "notice": Command("commands.notice", "print a sign for the door, from the configuration"),
    "baseline": Command("commands.baseline", "forget what a running pipeline learnt of voices"),
    "keygen": Command("commands.keygen", "make a key pair for encrypted connections"),
    "api-key": Command("commands.api_key", "let a program read the HTTP interface"),
    "train": Command("train", "train, evaluate, convert and adapt models (extra: train)", True),
}


def main() -> int:
    """Run the subcommand of the command line; returns its exit code."""
    prepare()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        return guarded("speech-emotion", lambda: _print(usage()))
    if name == "--version":
        return guarded("speech-emotion", lambda: _print(f"speech-emotion {__version__}"))
    command = COMMANDS.get(name)
    if command is None:
        print(f"speech-emotion: no command {name!r}; see speech-emotion --help", file=sys.stderr)
        return EXIT_USER
    light = sys.argv[2:3] in LIGHT_TRAINING
    if name == "train" and not light and absent(TRAIN_PACKAGES):
        print(f"speech-emotion train: {needs_extra('train')}", file=sys.stderr)
        return EXIT_USER
    words = sys.argv[2:]
    sys.argv = [f"speech-emotion {name}", *words]
    module = f"speech_emotion.{command.module}"
    if command.program:
        runpy.run_module(module, run_name="__main__")
        return 0
    command_main = importlib.import_module(module).main
    return guarded(f"speech-emotion {name}", lambda: int(command_main(words)))


def _print(text: str) -> int:
    print(text)
    return EXIT_OK


def absent(packages: tuple[str, ...]) -> list[str]:
    """The packages that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def usage() -> str:
    """The text of `speech-emotion --help`."""
    rows = "\n".join(f"  {name:<10} {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: speech-emotion COMMAND [ARGUMENTS]\n\n"
        "Real-time speech emotion: sound in, labels with calibrated confidence out.\n\n"
        f"commands:\n{rows}\n\n"
        "speech-emotion COMMAND --help explains a command; --version prints the version.\n\n"
        "examples:\n"
        "  speech-emotion demo\n"
        "  speech-emotion run --dashboard\n"
        "  speech-emotion infer talk.wav --json"
    )


if __name__ == "__main__":
    sys.exit(main())
